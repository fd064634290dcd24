// Uses SIGTRAP for itself, as the argument says, and calls `work` meanwhile. Ends with 0 if its own signals do what they
// are to.
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int traps, worked, nested, depth, unblocked, sender;

__attribute__((noinline)) void work(void) {
    worked++;
}

static int blocks(int signal) {
    sigset_t now;
    pthread_sigmask(0, 0, &now);
    return sigismember(&now, signal);
}

// Reaches the probe, takes another signal of its own when it returns, and none before.
static void handler(int signal) {
    nested |= depth++ > 0;
    traps++;
    work();
    unblocked |= !blocks(SIGTRAP);
    if (traps == 1) raise(SIGTRAP);
    work();
    work();
    depth--;
}

static void handler_of_sent(int signal, siginfo_t *info, void *context) {
    handler(signal);
    sender = info->si_code == SI_TKILL ? info->si_pid : 0;
}

static sigjmp_buf back;

__attribute__((noinline)) void touch(int *place) {
    *(volatile int *)place = 1;
}

static void all_blocked(int signal) {
    work();
    unblocked |= !blocks(SIGTRAP);
    work();
    if (signal == SIGSEGV) siglongjmp(back, 1);
}

static void anew(int number) {
    traps++;
    signal(SIGTRAP, anew);
    work();
}

static void gives_up(int number) {
    traps++;
    signal(SIGTRAP, SIG_DFL);
    work();
    raise(SIGTRAP);
}

static int is_kept(struct sigaction *before) {
    struct sigaction now;
    sigaction(SIGTRAP, 0, &now);
    return now.sa_handler == before->sa_handler && now.sa_flags == before->sa_flags &&
           !memcmp(&now.sa_mask, &before->sa_mask, 8);
}

static int handles(int flags, int other) {
    struct sigaction before, action = {.sa_handler = handler, .sa_flags = flags};
    if (flags & SA_SIGINFO) action.sa_sigaction = handler_of_sent;
    sigemptyset(&action.sa_mask);
    if (other) sigaddset(&action.sa_mask, other);
    sigaction(SIGTRAP, &action, 0);
    sigaction(SIGTRAP, 0, &before);
    raise(SIGTRAP);
    if (traps != 2 || nested || unblocked || flags & SA_SIGINFO && sender != getpid()) return 1;
    raise(SIGTRAP);
    asm volatile("int3");
    if (traps != 4 || nested || blocks(SIGTRAP)) return 2;
    return is_kept(&before) ? 0 : 3;
}

static void *blocked_work(void *unused) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, 0);
    // A system call in which it is seen to.
    pid_t child = fork();
    if (!child) _exit(0);
    waitpid(child, 0, 0);
    for (int i = 0; i < 10; i++) work();
    return (void *)(long)!blocks(SIGTRAP);
}

static int to_thread[2];

static void *waits_blocked(void *unused) {
    char byte;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, 0);
    if (pipe(to_thread)) return 0;
    worked = 1;
    if (read(to_thread[0], &byte, 1) != 1) return 0;
    for (int i = 0; i < 10; i++) work();
    return 0;
}

static int in_a_thread(void *(*run)(void *)) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, 0, run, 0);
    pthread_join(thread, &result);
    return (int)(long)result;
}

static int ignores(void) {
    FILE *status = fopen("/proc/self/status", "r");
    unsigned long set = 0;
    char line[256];
    while (fgets(line, sizeof line, status)) sscanf(line, "SigIgn: %lx", &set);
    fclose(status);
    return set >> (SIGTRAP - 1) & 1;
}

static int is_ignored(void) {
    for (int i = 0; i < 10; i++) work();
    if (!ignores()) return 1;
    raise(SIGTRAP);
    pid_t child = fork();
    if (!child) {
        work();
        raise(SIGTRAP);
        _exit(ignores() ? 7 : 8);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 7 ? 0 : 2;
}

static void *ignoring(void *unused) {
    for (int i = 0; i < 1000; i++) work();
    raise(SIGTRAP);
    return 0;
}

static int is_ignored_by_many(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(threads + i, 0, ignoring, 0);
    raise(SIGTRAP);
    pid_t child = fork();
    if (!child) _exit(ignores() ? 7 : 8);
    int status;
    waitpid(child, &status, 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    // Their ends have to be heard of.
    for (int i = 0; i < 1000 && !ignores(); i++) work();
    return !WIFEXITED(status) || WEXITSTATUS(status) != 7 ? 1 : ignores() ? 0 : 2;
}

// Ends whoever makes this system call.
static void forbid(int number) {
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof program / sizeof *program, program};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) _exit(90);
}

int main(int argc, char **argv) {
    char *how = argc > 1 ? argv[1] : "", byte;
    if (!strcmp(how, "handled")) {
        return handles(0, 0);
    } else if (!strcmp(how, "handled-so")) {
        return handles(SA_SIGINFO | SA_RESTART, SIGUSR1);
    } else if (!strcmp(how, "once")) {
        struct sigaction now, action = {.sa_handler = handler, .sa_flags = SA_RESETHAND};
        traps = 1;
        sigaction(SIGTRAP, &action, 0);
        raise(SIGTRAP);
        sigaction(SIGTRAP, 0, &now);
        return traps == 2 && now.sa_handler == SIG_DFL ? 0 : 1;
    } else if (!strcmp(how, "anew")) {
        signal(SIGTRAP, anew);
        for (int i = 0; i < 5; i++) raise(SIGTRAP);
        return traps == 5 ? 0 : 1;
    } else if (!strcmp(how, "given-up")) {
        signal(SIGTRAP, gives_up);
        raise(SIGTRAP);
        return 1;
    } else if (!strcmp(how, "other-thread")) {
        // The first signal tells the handler, which another thread loses.
        traps = 1;
        signal(SIGTRAP, handler);
        raise(SIGTRAP);
        if (in_a_thread(blocked_work)) return 1;
        raise(SIGTRAP);
        return traps == 3 ? 0 : 2;
    } else if (!strcmp(how, "unseen")) {
        // Making the thread tells it.
        traps = 1;
        signal(SIGTRAP, handler);
        if (in_a_thread(blocked_work)) return 1;
        raise(SIGTRAP);
        return traps == 2 ? 0 : 2;
    } else if (!strcmp(how, "other-signal")) {
        // Handlers that have everything blocked, of a signal that is sent and of a fault.
        struct sigaction action = {.sa_handler = all_blocked};
        sigfillset(&action.sa_mask);
        sigaction(SIGUSR1, &action, 0);
        sigaction(SIGSEGV, &action, 0);
        traps = 1;
        signal(SIGTRAP, handler);
        raise(SIGTRAP);
        for (int i = 0; i < 3; i++) {
            raise(SIGUSR1);
            raise(SIGTRAP);
        }
        if (!sigsetjmp(back, 1)) touch(0);
        raise(SIGTRAP);
        return traps == 6 && !unblocked && !blocks(SIGTRAP) ? 0 : 1;
    } else if (!strcmp(how, "attached")) {
        traps = 1;
        signal(SIGTRAP, handler);
        pthread_t thread;
        pthread_create(&thread, 0, waits_blocked, 0);
        while (!worked) {}
        if (write(1, "ready\n", 6) != 6) return 4;
        while (read(0, &byte, 1) > 0) {}
        work();
        if (write(to_thread[1], "", 1) != 1) return 5;
        pthread_join(thread, 0);
        raise(SIGTRAP);
        return traps == 2 ? 0 : 2;
    } else if (!strcmp(how, "unknown")) {
        sigset_t two;
        sigemptyset(&two);
        sigaddset(&two, SIGTRAP);
        sigaddset(&two, SIGUSR1);
        sigprocmask(SIG_SETMASK, &two, 0);
        execl(argv[0], argv[0], "still-unknown", (char *)0);
    } else if (!strcmp(how, "still-unknown")) {
        // Nothing tells of it.
        signal(SIGTRAP, handler);
        for (int i = 0; i < 10; i++) work();
        return !blocks(SIGTRAP);
    } else if (!strcmp(how, "ignored")) {
        return is_ignored();
    } else if (!strcmp(how, "ignored-by-many")) {
        return is_ignored_by_many();
    } else if (!strcmp(how, "ignored-left")) {
        pthread_t thread;
        pthread_create(&thread, 0, waits_blocked, 0);
        while (!worked) {}
        if (write(1, "ready\n", 6) != 6 || read(0, &byte, 1) != 1) return 4;
        work();
        while (read(0, &byte, 1) > 0) {}
        return !ignores();
    } else if (!strcmp(how, "ignored-no-more")) {
        work();
        signal(SIGTRAP, SIG_DFL);
        work();
        return ignores();
    } else if (!strcmp(how, "filtered")) {
        forbid(SYS_rt_sigaction);
        return is_ignored();
    }
    return 98;
}
