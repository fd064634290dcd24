// Signals arrive while a function is called over and over: ordinary and real-time ones, from a timer, from
// itself, and SIGTRAP. Ends with 0 if every one was delivered and no call went wrong.
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>

static volatile long ticks, real_time, traps;

static void tick(int signal) { ticks++; }
static void trap(int signal) { traps++; }
static void count(int signal, siginfo_t *info, void *context) {
    if (info->si_value.sival_int == real_time) real_time++;
}

__attribute__((noinline)) long step(long value) {
    return value * 3 + 1;
}

int main(void) {
    signal(SIGALRM, tick);
    signal(SIGTRAP, trap);
    struct sigaction action = {.sa_sigaction = count, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN + 3, &action, 0);
    struct itimerval timer = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_REAL, &timer, 0);
    long value = 1, check = 1;
    for (int i = 0; i < 2000; i++) {
        value = step(value);
        check = check * 3 + 1;
        if (i % 20 == 0) {
            union sigval number = {.sival_int = i / 20};
            sigqueue(getpid(), SIGRTMIN + 3, number);
        }
        if (i % 100 == 0) raise(SIGTRAP);
        if (i % 500 == 0) asm volatile("int3");
    }
    if (value != check) return 1;
    if (real_time != 100) return 2;
    if (traps != 24) return 3;
    if (ticks == 0) return 4;
    return 0;
}
