// Writes to variables in every way, and says on its standard output how often.
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct item { volatile int n; struct item *next; };

volatile int counter __attribute__((aligned(16)));
volatile char text[12] __attribute__((aligned(16)));
volatile long shared_word;
volatile long words[5];
struct item first = { 1, 0 }, second = { 20, 0 };
struct item *volatile list = &first;
__thread int own = 3;
static int pipes[2];

#define NAMED(name) __asm__ volatile(".globl " name "\n" name ":")

static void store(void) {
    NAMED("at_store");
    __asm__ volatile("movl $5, %0" : "=m"(counter));
}
static void same(void) {
    NAMED("at_same");
    __asm__ volatile("movl $5, %0" : "=m"(counter));
}
static void locked(void) {
    NAMED("at_locked");
    __asm__ volatile("lock incl %0" : "+m"(counter));
}
static void vector(void) {
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0" ::: "xmm0");
    NAMED("at_vector");
    __asm__ volatile("movaps %%xmm0, %0" : "=m"(*(volatile char(*)[16])&counter)::"xmm0");
}
#define MASKED(mask, name)                                                                                             \
    __asm__ volatile("vmovaps %0, %%xmm1" ::"m"(mask) : "xmm1");                                                       \
    NAMED(name);                                                                                                       \
    __asm__ volatile("vmaskmovps %%xmm1, %%xmm1, %0" : "=m"(counter))
// Stores beside it, but for one of them.
__attribute__((target("avx"))) static void masked(void) {
    static const int none[4] __attribute__((aligned(16))) = {0, -1}, first[4] __attribute__((aligned(16))) = {-1};
    MASKED(none, "at_masked_out");
    MASKED(first, "at_masked");
    MASKED(none, "at_masked_out_again");
}
static void from_kernel(void) {
    if (write(pipes[1], "\7\0\0\0", 4) != 4 || read(pipes[0], (void *)&counter, 4) != 4)
        abort();
}
static void movs(const char *from, long length) {
    volatile char *to = text;
    NAMED("at_movs");
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length)::"memory");
}
static void stos(void) {
    volatile char *to = text;
    long length = 4;
    NAMED("at_stos");
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"('x') : "memory");
}
static void blocked(void) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    counter = 100;
    counter = 101;
    pthread_sigmask(SIG_SETMASK, &old, 0);
}

// A variable on the stack, to which a callee writes, and a push, when it is gone.
__attribute__((noinline)) static void callee(volatile int *to) { *to += 1; }
__attribute__((noinline)) int local(int from) {
    volatile int sum = from;
    callee(&sum);
    callee(&sum);
    return sum;
}
__attribute__((noinline)) long pushed(void) {
    volatile long word = 1;
    // Pops and pushes what lies there.
    NAMED("at_push");
    __asm__ volatile("mov %%rsp, %%rbx\n lea 8(%0), %%rsp\n push $77\n call 1f\n1: mov %%rbx, %%rsp"
                     :: "r"(&word) : "rbx", "memory");
    return word;
}
static jmp_buf back;
__attribute__((noinline)) void leaves(int how) {
    volatile int value = how;
    value = how + 1;
    if (value)
        longjmp(back, 1);
}

static long rounds;
static void *adds(void *unused) {
    for (long i = 0; i < rounds; i++)
        __atomic_fetch_add(&shared_word, 1, __ATOMIC_SEQ_CST);
    return unused;
}
__attribute__((noinline)) void *adds_once(void *unused) {
    for (long i = 0; i < rounds; i++)
        __atomic_fetch_add(&shared_word, 1, __ATOMIC_SEQ_CST);
    return unused;
}
static void threads(void *(*work)(void *)) {
    pthread_t all[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&all[i], 0, work, 0);
    for (int i = 0; i < 4; i++)
        pthread_join(all[i], 0);
    printf("%ld\n", shared_word);
}

__attribute__((noinline)) void ready(void) { __asm__ volatile(""); }

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "";
    if (pipe(pipes))
        abort();
    rounds = count > 2 ? atol(arguments[2]) : 0;
    ready();
    if (!strcmp(what, "ways")) {
        store(); same(); locked(); vector(); from_kernel(); locked();
    } else if (!strcmp(what, "masked")) {
        masked();
    } else if (!strcmp(what, "strings")) {
        movs("abcd", 4); stos();
    } else if (!strcmp(what, "blocked")) {
        blocked(); store();
    } else if (!strcmp(what, "list")) {
        first.n = 2; list = &second; first.n = 3; second.n = 21; list = 0; list = &first;
    } else if (!strcmp(what, "local")) {
        printf("%d %d\n", local(5), local(50));
    } else if (!strcmp(what, "pushed")) {
        pushed();
    } else if (!strcmp(what, "leaves")) {
        if (!setjmp(back)) { leaves(7); abort(); }
        if (!setjmp(back)) { leaves(9); abort(); }
        int result = local(1);
        printf("%d\n", result);
    } else if (!strcmp(what, "threads")) {
        threads(adds);
    } else if (!strcmp(what, "threads_once")) {
        threads(adds_once);
    } else if (!strcmp(what, "fork")) {
        store();
        pid_t child = fork();
        if (!child) { locked(); locked(); _exit(0); }
        waitpid(child, 0, 0);
        locked();
    } else if (!strcmp(what, "exec")) {
        store();
        execl(arguments[0], arguments[0], "ways", (char *)0);
        abort();
    }
    fflush(stdout);
    return 0;
}
