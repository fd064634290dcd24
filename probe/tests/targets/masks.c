// Calls `work` with SIGTRAP blocked or not, as the argument says, and looks at its own mask and handler, and at
// the mask that a child inherits, before and after. Ends with 0 if all are as they should be.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char *program;
static volatile int traps, worked;

static void trap(int signal) {
    traps++;
}

__attribute__((noinline)) void work(void) {
    worked++;
}

static sigset_t mask(void) {
    sigset_t now;
    pthread_sigmask(0, 0, &now);
    return now;
}

// Whether a child finds SIGTRAP blocked.
static int inherited(void) {
    char *arguments[] = {program, "look", 0};
    pid_t pid;
    int status;
    if (posix_spawn(&pid, program, 0, 0, arguments, environ) || waitpid(pid, &status, 0) < 0) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// Works, and checks that the mask stays as it is, with SIGTRAP blocked or not.
static int keeps(int blocked) {
    sigset_t before = mask();
    if (sigismember(&before, SIGTRAP) != blocked) return 1;
    for (int i = 0; i < 10; i++) work();
    sigset_t after = mask();
    for (int signal = 1; signal < NSIG; signal++) {
        if (sigismember(&before, signal) != sigismember(&after, signal)) return 2;
    }
    return inherited() == blocked ? 0 : 3;
}

static void *in_thread(void *unused) {
    return (void *)(long)keeps(0);
}

static void *all_blocked(void *unused) {
    char byte;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, 0);
    if (write(1, "ready\n", 6) != 6) return (void *)4;
    while (read(0, &byte, 1) > 0) {}
    return (void *)(long)keeps(1);
}

static int in_a_thread(void *(*run)(void *)) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, 0, run, 0);
    pthread_join(thread, &result);
    return (int)(long)result;
}

static void set(int how, int first, int second) {
    sigset_t signals;
    sigemptyset(&signals);
    if (first) sigaddset(&signals, first);
    if (second) sigaddset(&signals, second);
    sigprocmask(how, &signals, 0);
}

static int handler_is_kept(void) {
    struct sigaction now;
    sigaction(SIGTRAP, 0, &now);
    if (now.sa_handler != trap) return 0;
    raise(SIGTRAP);
    return traps == 1;
}

// Executes this program anew with another argument and the mask as it is.
static int again(char *how) {
    execl(program, program, how, (char *)0);
    return 99;
}

int main(int argc, char **argv) {
    char *how = argc > 1 ? argv[1] : "";
    program = argv[0];
    if (!strcmp(how, "look")) {
        sigset_t now = mask();
        return sigismember(&now, SIGTRAP);
    } else if (!strcmp(how, "thread")) {
        // Born with everything blocked, as glibc has it.
        signal(SIGTRAP, trap);
        int result = in_a_thread(in_thread);
        return result ? result : !handler_is_kept();
    } else if (!strcmp(how, "attached")) {
        return in_a_thread(all_blocked);
    } else if (!strcmp(how, "blocked")) {
        set(SIG_SETMASK, SIGTRAP, SIGUSR1);
        return again("still");
    } else if (!strcmp(how, "still")) {
        return keeps(1);
    } else if (!strcmp(how, "alone")) {
        set(SIG_SETMASK, SIGTRAP, 0);
        return again("emptied");
    } else if (!strcmp(how, "emptied")) {
        set(SIG_SETMASK, 0, 0);
        return keeps(0);
    } else if (!strcmp(how, "handled")) {
        set(SIG_SETMASK, SIGTRAP, SIGUSR1);
        return again("caught");
    } else if (!strcmp(how, "caught")) {
        signal(SIGTRAP, trap);
        set(SIG_UNBLOCK, SIGTRAP, 0);
        int result = keeps(0);
        return result ? result : !handler_is_kept();
    } else if (!strcmp(how, "changed")) {
        set(SIG_SETMASK, SIGTRAP, SIGUSR1);
        return again("other");
    } else if (!strcmp(how, "other")) {
        set(SIG_SETMASK, SIGUSR2, 0);
        return keeps(0);
    }
    return 98;
}
