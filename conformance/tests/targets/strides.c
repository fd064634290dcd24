// What interrupts a run of instructions: signals, faults, code that is written, clocks, the floating-point
// environment, a child. Ends with the number of what went wrong.
#include <fenv.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t alarms;
static sigjmp_buf out;
static char *volatile faulted;

static void alarmed(int signal) { alarms++; }

static void segv(int signal, siginfo_t *info, void *context) {
    faulted = info->si_addr;
    siglongjmp(out, 1);
}

// As many turns as it takes for three alarms.
static int timer(void) {
    struct itimerval every = {{0, 20000}, {0, 20000}}, never = {{0, 0}, {0, 0}};
    signal(SIGALRM, alarmed);
    setitimer(ITIMER_REAL, &every, 0);
    for (uint64_t turn = 0; alarms < 3; turn++) {}
    setitimer(ITIMER_REAL, &never, 0);
    return 0;
}

static int fault(void) {
    struct sigaction action = {.sa_sigaction = segv, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, 0);
    char *page = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int turn = 0; turn < 3; turn++) {
        if (!sigsetjmp(out, 1)) {
            for (char *byte = page + 4095; ; byte--) *(volatile char *)byte = 1;
        }
        if (faulted != page + 4095) return 1;
    }
    return 0;
}

// mov eax, N; ret, with another N each time.
static int written_code(void) {
    unsigned char *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int32_t number = 0; number < 200; number++) {
        code[0] = 0xb8;
        memcpy(code + 1, &number, 4);
        code[5] = 0xc3;
        if (((int (*)(void))code)() != number) return 1;
    }
    return 0;
}

static int clocks(void) {
    struct timespec before, now;
    clock_gettime(CLOCK_MONOTONIC, &before);
    for (int turn = 0; turn < 100; turn++) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec < before.tv_sec) return 1;
    }
    return 0;
}

static int environment(void) {
    volatile long double one = 1, third;
    for (int turn = 0; turn < 100; turn++) {
        fenv_t saved;
        feholdexcept(&saved);
        third = one / 3;
        if (!fetestexcept(FE_INEXACT)) return 1;
        feupdateenv(&saved);
    }
    return 0;
}

// Loops that go round without coming anywhere new, and copies.
static int circles(void) {
    static char from[8192], to[8192];
    uint64_t sum = 0;
    for (uint64_t turn = 0; turn < 1000; turn++) __asm__ volatile("add %1, %0" : "+r"(sum) : "r"(turn));
    for (unsigned at = 0; at < sizeof from; at++) from[at] = (char)(at * 7);
    memcpy(to, from, sizeof to);
    return sum != 999ul * 1000 / 2 || memcmp(from, to, sizeof to) != 0;
}

// What names memory and accesses it otherwise than a load or a store does, or not at all.
static int hints(void) {
    static char lines[64 * 64] __attribute__((aligned(64)));
    for (unsigned at = 0; at < sizeof lines; at += 64) {
        char *line = lines + at;
        unsigned long expected = 1, wanted = 2;
        __asm__ volatile("prefetcht0 %0\n\tprefetchw 8%0\n\tclflush 16%0\n\tnopl 24%0" : "+m"(*line));
        __asm__ volatile("cmovc 32%1, %0" : "+r"(wanted) : "m"(*line));
        __asm__ volatile("lock cmpxchg %2, 40%1" : "+a"(expected), "+m"(*line) : "r"(wanted));
        __asm__ volatile("pxor %%xmm0, %%xmm0\n\tmaskmovdqu %%xmm0, %%xmm0" : : "D"(line + 48) : "xmm0", "memory");
        if (expected != 0 || line[40] != 0) return 1;
    }
    return 0;
}

static int child(void) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) _exit(circles() ? 1 : 42);
    waitpid(pid, &status, 0);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 42;
}

int main(void) {
    int (*const parts[])(void) = {timer, fault, written_code, clocks, environment, circles, hints, child};
    for (int part = 0; part < 8; part++) {
        if (parts[part]()) return 10 + part;
    }
    return 0;
}
