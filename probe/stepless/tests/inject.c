/* What the tests of injections change: each mode prints what the program itself sees. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline, noclone))

struct point { int x; short y; unsigned a : 3, b : 5; char name[8]; double d; float f; };
struct large { long numbers[4]; };
struct point point = { 1, 2, 3, 4, "abc", 0.5, 0.25f };
int total = 7;
int calls;

FUNCTION int number(int n) { __asm__ volatile("" ::: "memory"); __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST); return n + 1; }
FUNCTION double half(double d) { __asm__ volatile("" ::: "memory"); calls++; return d / 2; }
FUNCTION float single(float f) { __asm__ volatile("" ::: "memory"); calls++; return f / 2; }
FUNCTION const char *text(int n) { __asm__ volatile("" ::: "memory"); calls++; return n ? "text" : "none"; }
FUNCTION void nothing(int n) { __asm__ volatile("" ::: "memory"); calls += n; }
FUNCTION struct large large(int n) { struct large l = { { n, n, n, n } }; __asm__ volatile("" ::: "memory"); return l; }
FUNCTION int many(int a, int b, int c, int d, int e, int f, int g, char h) {
    __asm__ volatile("" ::: "memory");
    return printf("%d %d %d %d %d %d %d %d\n", a, b, c, d, e, f, g, h);
}
FUNCTION void look(struct point *p, int n, double d, float f) {
    __asm__ volatile("" ::: "memory");
    printf("%d %d %u %u %s %g %g n=%d d=%g f=%g total=%d\n", p->x, p->y, p->a, p->b, p->name, p->d, p->f, n, d, f, total);
}

/* getpid(2), and one that adds five, by instructions whose places are known. */
long raw(void);
long five(void);
__asm__(".text\n.globl raw\n.type raw,@function\nraw: mov $39,%eax\n syscall\n ret\n.size raw,.-raw\n"
        ".globl five\n.type five,@function\nfive: mov $1,%eax\n add $5,%eax\n ret\n.size five,.-five\n");

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static pthread_barrier_t barrier;
static int found[8], failures[8], after[8];

static void *work(void *argument) {
    long me = (long)argument;
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 20; i++) found[me] += number(1) == 42;
    return 0;
}

static void *fail(void *argument) {
    long me = (long)argument;
    pthread_barrier_wait(&barrier);
    errno = 100 + me;
    failures[me] = chdir(".");
    after[me] = errno;
    return 0;
}

static double ended[2];

static void *slow(void *argument) {
    pthread_barrier_wait(&barrier);
    nothing(1);
    ended[0] = now();
    return argument;
}

static void *fast(void *argument) {
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 10; i++) number(i);
    ended[1] = now();
    return argument;
}

static void in_threads(int count, void *(*start)(void *)) {
    pthread_t threads[8];
    pthread_barrier_init(&barrier, 0, count);
    for (long i = 0; i < count; i++) pthread_create(&threads[i], 0, start, (void *)i);
    for (int i = 0; i < count; i++) pthread_join(threads[i], 0);
}

static volatile sig_atomic_t code, sender, receiver, came;

static void handle(int signal, siginfo_t *info, void *context) {
    (void)context;
    came = signal, code = info->si_code, sender = info->si_pid, receiver = gettid();
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "results")) {
        for (int i = 1; i < 5; i++) printf("%d ", number(i));
        double d = half(3);
        float f = single(3);
        const char *t = text(1);
        nothing(100);
        printf("%g %g %s calls=%d\n", d, f, t ? t : "null", calls);
    } else if (!strcmp(mode, "look")) {
        look(&point, 5, 2.5, 3.5f);
        many(1, 2, 3, 4, 5, 6, 7, 8);
    } else if (!strcmp(mode, "threads")) {
        in_threads(8, work);
        int sum = 0;
        for (int i = 0; i < 8; i++) sum += found[i];
        printf("%d calls=%d\n", sum, calls);
    } else if (!strcmp(mode, "errno")) {
        in_threads(8, fail);
        int failed = 0, own = 0;
        for (int i = 0; i < 8; i++) failed += failures[i] == -1 && after[i] == ENOSPC, own += !failures[i] && after[i] == 100 + i;
        printf("failed=%d own=%d\n", failed, own);
    } else if (!strcmp(mode, "fail")) {
        errno = 0;
        int result = chdir(".");
        printf("%d %d ", result, errno);
        errno = 0;
        void *(*volatile allocate)(size_t) = malloc;
        void *memory = allocate(12345);
        printf("%d %d\n", memory == 0, errno);
    } else if (!strcmp(mode, "raw")) {
        printf("%ld %ld\n", raw(), five());
    } else if (!strcmp(mode, "delay")) {
        pthread_t threads[2];
        pthread_barrier_init(&barrier, 0, 2);
        double start = now();
        pthread_create(&threads[0], 0, slow, 0);
        pthread_create(&threads[1], 0, fast, 0);
        pthread_join(threads[0], 0);
        pthread_join(threads[1], 0);
        printf("waited=%d first=%d calls=%d\n", ended[0] - start >= 2, ended[1] < ended[0], calls);
    } else if (!strcmp(mode, "signal")) {
        struct sigaction action = { .sa_sigaction = handle, .sa_flags = SA_SIGINFO };
        sigaction(SIGUSR1, &action, 0);
        for (int i = 0; i < 3; i++) {
            came = 0;
            number(i);
            if (came) printf("%d: %d code=%d own=%d thread=%d\n", i, came, code, sender == getpid(), receiver == gettid());
        }
    } else if (!strcmp(mode, "many")) {
        for (int i = 0; i < 300; i++) number(i);
    }
    fflush(stdout);
    return 3;
}
