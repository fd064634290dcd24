// The leader makes system calls and atomic accesses while other threads wait. At SIGUSR1 one of them executes
// another program.
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((noinline, naked)) void enter(void) {
    __asm__("mov $110, %eax\n\tsyscall\n\tret");
}

int word;

__attribute__((noinline)) void bump(void) {
    __asm__ volatile("lock incl %0" : "+m"(word));
}

static void *replace(void *set) {
    int signal;
    sigwait(set, &signal);
    execl("/bin/true", "true", NULL);
    abort();
}

static void *wait_forever(void *unused) {
    for (;;) pause();
    return unused;
}

int main(int count, char **arguments) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_t thread;
    pthread_create(&thread, NULL, replace, &set);
    for (int others = atoi(arguments[count - 1]); others > 0; others--)
        pthread_create(&thread, NULL, wait_forever, NULL);
    for (;;) {
        enter();
        bump();
    }
}
