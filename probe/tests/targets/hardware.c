// What hardware breakpoints meet. The argument says what it does; it ends with 0 if it has noticed nothing.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static char *program;
static volatile int traps, faults, stop;
static volatile unsigned long calls;

// Three instructions, one after the other.
long work(long);
asm(".text\n.globl work\n.type work,@function\nwork: lea 1(%rdi),%rax\nadd $2,%rax\nret\n.size work,.-work\n");

// Copies, sums, and loads what may fault.
void copy(void *to, const void *from, unsigned long size);
asm(".globl copy\n.type copy,@function\ncopy: mov %rdx,%rcx\nrep movsb\nret\n.size copy,.-copy\n");
long load(const volatile long *from);
asm(".globl load\n.type load,@function\nload: mov (%rdi),%rax\nret\n.size load,.-load\n");

static void trap(int signal) { traps++; }

// Sends this thread, with what is to be said of it, a signal, which it takes when it comes back from the kernel: before the
// instruction at `returned`.
long send_to_itself(int process, int thread, int signal, siginfo_t *info);
asm(".globl send_to_itself, returned\n.type send_to_itself,@function\nsend_to_itself: mov %rcx,%r10\nmov $297,%eax\nsyscall\n"
    ".type returned,@function\nreturned: lea (%rax),%rax\nret\n.size returned,.-returned\n.size send_to_itself,.-send_to_itself\n");

// As the kernel sends it for a debug exception of which DR6 says nothing.
static int untold(int times) {
    siginfo_t info = {.si_signo = SIGTRAP, .si_code = TRAP_BRKPT};
    while (times-- > 0)
        if (send_to_itself(getpid(), gettid(), SIGTRAP, &info)) return 1;
    return 0;
}

static int ready(void) {
    char byte;
    puts("ready");
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {}
    return 0;
}

static int many(int times) {
    for (int i = 0; i < times; i++)
        if (work(i) != i + 3) return 1;
    return 0;
}

static void *worker(void *times) { return (void *)(long)many((int)(long)times); }

// So many threads at a time, one generation after the other.
static int generations(int number, int threads, int times) {
    long wrong = 0;
    while (number-- > 0) {
        pthread_t ids[threads];
        for (int i = 0; i < threads; i++)
            if (pthread_create(&ids[i], 0, worker, (void *)(long)times)) return 2;
        for (int i = 0; i < threads; i++) {
            void *result;
            pthread_join(ids[i], &result);
            wrong += (long)result;
        }
    }
    return wrong != 0;
}

static int children(int number, int times) {
    int wrong = 0;
    for (int i = 0; i < number; i++) {
        int status;
        pid_t pid = fork();
        if (!pid) _exit(many(times));
        if (waitpid(pid, &status, 0) < 0 || status) wrong = 1;
    }
    return wrong | many(times);
}

static int spawned(int number, char *what) {
    int wrong = 0;
    for (int i = 0; i < number; i++) {
        char *arguments[] = {program, what, 0};
        pid_t pid;
        int status;
        if (posix_spawn(&pid, program, 0, 0, arguments, environ) || waitpid(pid, &status, 0) < 0 || status) wrong = 1;
    }
    return wrong | many(number);
}

static void set(int how) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTRAP);
    sigprocmask(how, &signals, 0);
}

// The first access to a page is not allowed; the handler allows it, and it is made again.
static void *page;
static void allow(int signal) {
    faults++;
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
}

static int faulting(int times) {
    struct sigaction action = {.sa_handler = allow};
    sigaction(SIGSEGV, &action, 0);
    page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *(long *)page = 42;
    for (int i = 0; i < times; i++) {
        mprotect(page, 4096, PROT_NONE);
        if (load(page) != 42 || faults != i + 1) return 1;
    }
    return 0;
}

static int copying(void) {
    static char from[10000], to[10000];
    for (unsigned i = 0; i < sizeof from; i++) from[i] = (char)(i * 7);
    copy(to, from, sizeof from);
    return memcmp(to, from, sizeof from) != 0;
}

// Maps a file with code for `return number`.
static int (*map_code(int number, int flags, void *where))(void) {
    char name[] = "/tmp/stepless-code-XXXXXX";
    unsigned char code[] = {0xb8, (unsigned char)number, 0, 0, 0, 0xc3};
    int file = mkstemp(name);
    if (file < 0 || write(file, code, sizeof code) != sizeof code || ftruncate(file, 4096)) exit(9);
    close(file);
    file = open(name, O_RDONLY);
    unlink(name);
    void *mapped = mmap(where, 4096, PROT_READ | PROT_EXEC, flags, file, 0);
    close(file);
    if (mapped == MAP_FAILED) exit(8);
    return (int (*)(void))mapped;
}

// Waits in a system call that says when it was interrupted.
static void *wait_uninterrupted(void *unused) {
    struct epoll_event event;
    int set = epoll_create1(0);
    while (!stop)
        if (epoll_wait(set, &event, 1, 50) < 0) return (void *)1;
    return 0;
}

static void *traffic(void *unused) {
    while (!stop) {
        if (work(7) != 10) return (void *)1;
        __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
    }
    return 0;
}

// Threads that work until standard input ends, and one that must not be interrupted.
static int busy(int threads, int watch) {
    pthread_t ids[threads + 1];
    long wrong = 0;
    for (int i = 0; i < threads; i++) pthread_create(&ids[i], 0, traffic, 0);
    pthread_create(&ids[threads], 0, watch ? wait_uninterrupted : traffic, 0);
    ready();
    stop = 1;
    for (int i = 0; i <= threads; i++) {
        void *result;
        pthread_join(ids[i], &result);
        wrong += (long)result;
    }
    return wrong != 0;
}

int main(int argc, char **argv) {
    char *what = argc > 1 ? argv[1] : "";
    program = argv[0];
    if (!strcmp(what, "work")) return many(100);
    if (!strcmp(what, "generations")) return generations(25, 8, 20);
    if (!strcmp(what, "untold")) return untold(10);
    if (!strcmp(what, "waits")) return ready() | many(100);
    if (!strcmp(what, "fork")) return children(20, 5);
    if (!strcmp(what, "spawn")) return spawned(20, "work");
    if (!strcmp(what, "exec")) {
        int wrong = many(100);
        execl(program, program, wrong ? "" : "work", (char *)0);
    }
    if (!strcmp(what, "copy")) return copying();
    if (!strcmp(what, "fault")) return faulting(10);
    if (!strcmp(what, "busy")) return busy(3, 0);
    if (!strcmp(what, "quiet")) return busy(2, 1);
    if (!strcmp(what, "blocked")) {
        signal(SIGTRAP, trap);
        set(SIG_BLOCK);
        if (many(1000)) return 1;
        set(SIG_UNBLOCK);
        return many(10) | traps;
    }
    if (!strcmp(what, "pending")) {
        set(SIG_BLOCK);
        if (many(10)) return 1;
        ready();
        sigset_t now;
        sigpending(&now);
        if (sigismember(&now, SIGTRAP)) return 2;
        sigprocmask(0, 0, &now);
        if (!sigismember(&now, SIGTRAP)) return 3;
        // With the default action it would end here.
        set(SIG_UNBLOCK);
        return many(10);
    }
    if (!strcmp(what, "ignored")) {
        struct sigaction now;
        signal(SIGTRAP, SIG_IGN);
        int wrong = many(10);
        sigaction(SIGTRAP, 0, &now);
        return wrong | (now.sa_handler != SIG_IGN);
    }
    if (!strcmp(what, "clock")) {
        struct timespec now;
        for (int i = 0; i < 10; i++)
            if (clock_gettime(CLOCK_MONOTONIC, &now)) return 1;
        return 0;
    }
    if (!strcmp(what, "shared") || !strcmp(what, "replaced")) {
        int (*code)(void) = map_code(42, what[0] == 's' ? MAP_SHARED : MAP_PRIVATE, 0);
        printf("%p\n", (void *)code);
        ready();
        for (int i = 0; i < 10; i++)
            if (code() != 42) return 1;
        if (what[0] == 's') return 0;
        // The same address, but another file.
        map_code(43, MAP_PRIVATE | MAP_FIXED, (void *)code);
        for (int i = 0; i < 10; i++)
            if (code() != 43) return 2;
        return 0;
    }
    return 98;
}
