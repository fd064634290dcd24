// Threads that the main thread makes, and that call a function again and again.
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t rounds;
static atomic_ulong both;
static atomic_ulong slow_calls;
static atomic_int done;
static char **arguments;

// 32 bits of a checksum, with a load and a store.
__attribute__((noinline)) static void step(uint32_t *sum, uint32_t number) {
    asm volatile("imull $31, (%0), %%eax\n\taddl %1, %%eax\n\tmovl %%eax, (%0)\n\tlock incq %2"
                 :
                 : "r"(sum), "r"(number), "m"(both)
                 : "eax", "memory", "cc");
}

// RFLAGS.ID, which only the thread itself can change: to the other value, which is returned.
uint64_t toggle(void);
asm(".text\n.type toggle,@function\ntoggle: pushf\nxorl $0x200000,(%rsp)\npopf\n"
    "pushf\npop %rax\nand $0x200000,%rax\nret\n.size toggle,.-toggle\n");

// A system call without arguments.
int enter(int number);
asm(".text\n.type enter,@function\nenter: mov %edi, %eax\nsyscall\nret\n.size enter,.-enter\n");

__attribute__((noinline)) static void slow(void) { atomic_fetch_add(&slow_calls, 1); }

static void *work(void *argument) {
    uint32_t *sum = argument;
    for (uint32_t number = 0; number < rounds; number++)
        step(sum, number);
    return 0;
}

static void *look(void *argument) {
    uint32_t *sum = argument;
    uint64_t before = toggle();
    for (uint32_t number = 0; number < rounds; number++) {
        step(sum, number);
        uint64_t now = toggle();
        if (now == before)
            abort();
        before = now;
    }
    return 0;
}

static void *enter_kernel(void *argument) {
    uint32_t *sum = argument;
    int own = enter(SYS_gettid);
    for (uint32_t number = 0; number < rounds; number++) {
        if (enter(SYS_gettid) != own)
            abort();
        step(sum, number);
    }
    return 0;
}

static void *dawdle(void *argument) {
    for (uint64_t number = 0; number < rounds; number++)
        slow();
    atomic_store(&done, 1);
    return argument;
}

// As often as there is time until the other is done.
static void *hurry(void *argument) {
    uint32_t sum = 0;
    while (!atomic_load(&done)) {
        step(&sum, 1);
        ++*(uint64_t *)argument;
    }
    return 0;
}

static void *become(void *argument) {
    work(argument);
    char *again[] = {arguments[0], "work", "2", arguments[3], 0};
    execv("/proc/self/exe", again);
    return argument;
}

int main(int argc, char **argv) {
    arguments = argv;
    const char *what = argv[1];
    int threads = atoi(argv[2]);
    rounds = strtoull(argv[3], 0, 10);
    pthread_t ids[threads];
    uint32_t sums[threads];
    uint64_t hurried = 0;
    memset(sums, 0, sizeof sums);
    if (!strcmp(what, "waits")) {
        puts("ready");
        fflush(stdout);
    }
    for (int i = 0; i < threads; i++) {
        void *(*start)(void *) = work;
        if (!strcmp(what, "look"))
            start = look;
        if (!strcmp(what, "enter"))
            start = enter_kernel;
        if (!strcmp(what, "become"))
            start = i ? become : work;
        if (!strcmp(what, "slow"))
            start = i ? hurry : dawdle;
        if (!strcmp(what, "slow_main"))
            start = hurry;
        void *argument = start == hurry ? (void *)&hurried : (void *)&sums[i];
        if (pthread_create(&ids[i], 0, start, argument))
            return 2;
    }
    if (!strcmp(what, "slow_main")) {
        while (!atomic_load((atomic_ulong *)&hurried))
            ;
        dawdle(0);
    }
    if (!strcmp(what, "waits")) {
        // Threads come and go until standard input ends.
        char byte;
        while (read(0, &byte, 1) > 0)
            ;
    }
    for (int i = 0; i < threads; i++)
        pthread_join(ids[i], 0);
    for (int i = 0; i < threads; i++)
        printf("%u ", sums[i]);
    printf("%lu\n", !strncmp(what, "slow", 4) ? slow_calls + 0 : both + 0);
    return argc == 4 ? 0 : 3;
}
