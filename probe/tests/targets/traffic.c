// Threads that never stop calling `leaf`, threads and children that come and go, and threads that wait in system calls
// which fail with EINTR when a tracer interrupts them. Each call of `leaf` hands over who calls, and its how manieth call
// that is. Ends when stdin does, and prints what has gone wrong, then what there was. With an argument, everybody pauses
// for so many microseconds after each ten calls.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CALLS = 20 };

static atomic_int over;
static atomic_long interrupted, threads_wrong, children_wrong, threads_right, children_right, callers;
static useconds_t pause_for;

__attribute__((noinline)) unsigned long leaf(unsigned long caller, unsigned long call) {
    __asm__ volatile("" : "+r"(caller), "+r"(call));
    return caller ^ call;
}

// Says whether each answer was right.
static int make_call(unsigned long caller, unsigned long call) {
    if (pause_for && call % 10 == 9) usleep(pause_for);
    return leaf(caller, call) == (caller ^ call);
}

static int make_calls(void) {
    unsigned long caller = callers++;
    int right = 1;
    for (unsigned long call = 0; call < CALLS; call++) right &= make_call(caller, call);
    return right;
}

static void *call_always(void *unused) {
    unsigned long caller = callers++;
    for (unsigned long call = 0; !over; call++)
        if (!make_call(caller, call)) threads_wrong++;
    return unused;
}

static void *call_and_end(void *unused) {
    return make_calls() ? &over : unused;
}

static void *make_threads(void *unused) {
    while (!over) {
        pthread_t thread;
        void *right = 0;
        if (pthread_create(&thread, 0, call_and_end, 0) || pthread_join(thread, &right) || !right) threads_wrong++;
        else threads_right++;
    }
    return unused;
}

static void *make_children(void *unused) {
    while (!over) {
        callers++;
        pid_t child = fork();
        if (!child) _exit(make_calls() ? 7 : 8);
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7)
            children_wrong++;
        else children_right++;
    }
    return unused;
}

static void *wait_in_epoll(void *unused) {
    int epoll = epoll_create1(0);
    struct epoll_event event;
    while (!over)
        if (epoll_wait(epoll, &event, 1, 50) < 0 && errno == EINTR) interrupted++;
    return unused;
}

static void *wait_in_receive(void *unused) {
    int pair[2];
    char byte;
    struct timeval limit = {0, 50000};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return unused;
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    while (!over)
        if (recv(pair[0], &byte, 1, 0) < 0 && errno == EINTR) interrupted++;
    return unused;
}

int main(int argc, char **argv) {
    void *(*bodies[])(void *) = {wait_in_epoll, wait_in_receive, call_always, call_always, make_threads, make_children};
    enum { BODIES = sizeof bodies / sizeof *bodies };
    pthread_t threads[BODIES];
    if (argc > 1) pause_for = atoi(argv[1]);
    // Which a process that is traced takes though it ignores it.
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, 0);
    for (int i = 0; i < BODIES; i++) pthread_create(&threads[i], 0, bodies[i], 0);
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0) {}
    over = 1;
    for (int i = 0; i < BODIES; i++) pthread_join(threads[i], 0);
    printf("%ld %ld %ld\n", interrupted, threads_wrong, children_wrong);
    printf("%ld %ld\n", threads_right, children_right);
    return 0;
}
