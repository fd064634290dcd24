// Two threads make others, or with "children" processes, again and again; each calls `work`, and a child then writes a byte
// to standard output. So many microseconds after both have begun, the main thread ends the process with 3.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BUSY = 100 };

static int children, begun;

__attribute__((noinline)) void work(void) {
    __asm__ volatile("");
}

static void *made(void *unused) {
    work();
    return unused;
}

static void *make(void *unused) {
    // It has a tracer of its own by then.
    for (int i = 0; i < BUSY; i++) work();
    __atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        pthread_t thread;
        if (!children) {
            if (!pthread_create(&thread, 0, made, 0)) pthread_join(thread, 0);
            continue;
        }
        pid_t child = fork();
        if (!child) {
            work();
            _exit(write(STDOUT_FILENO, "c", 1) != 1);
        }
        waitpid(child, 0, 0);
    }
    return unused;
}

int main(int argc, char **argv) {
    pthread_t thread;
    struct timespec time = {.tv_nsec = argc > 2 ? 1000 * atol(argv[2]) : 0};
    children = argc > 1 && !strcmp(argv[1], "children");
    for (int i = 0; i < 2; i++) pthread_create(&thread, 0, make, 0);
    while (__atomic_load_n(&begun, __ATOMIC_SEQ_CST) < 2) usleep(100);
    nanosleep(&time, 0);
    _exit(3);
}
