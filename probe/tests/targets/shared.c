/*
 * Threads that change memory by atomic instructions while another process, which maps the same, does so, too.
 *
 * shared KIND SIZE THREADS ROUNDS [private]: each thread calls KIND_SIZE so often. Prints what is missing in the end:
 * 0 where no change was lost. With the last, two threads of this process take the other's place.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Each instruction is there twice: in a function that is probed, and in one that is not. */
#define FUNCTION(name, body) \
    ".globl " name ", other_" name "\n.type " name ", @function\n" name ":\n" body "ret\n.size " name ", . - " name \
    "\nother_" name ":\n" body "ret\n"
#define KINDS(size, s, a, d) \
    FUNCTION("inc_" size, "lock inc" s " (%rdi)\n") \
    FUNCTION("add_" size, "mov $1, %eax\n lock add %" a ", (%rdi)\n") \
    FUNCTION("xadd_" size, "mov $1, %eax\n lock xadd %" a ", (%rdi)\n") \
    FUNCTION("sub_" size, "lock sub" s " $-1, (%rdi)\n") \
    FUNCTION("adc_" size, "stc\n lock adc" s " $0, (%rdi)\n") \
    FUNCTION("not_" size, "lock not" s " (%rdi)\n") \
    FUNCTION("or_" size, "lock or" s " $1, (%rdi)\n") \
    FUNCTION("and_" size, "lock and" s " $-2, (%rdi)\n") \
    FUNCTION("xor_" size, "mov $1, %eax\n lock xor %" a ", (%rdi)\n") \
    FUNCTION("xchg_" size, "mov %rsi, %rax\n xchg %" a ", (%rdi)\n") \
    FUNCTION("cmpxchg_" size, "mov (%rdi), %" a "\n 1: lea 1(%rax), %rdx\n lock cmpxchg %" d ", (%rdi)\n jnz 1b\n")
#define BITS(size, s) \
    FUNCTION("bts_" size, "xor %eax, %eax\n lock bts" s " $0, (%rdi)\n setc %al\n") \
    FUNCTION("btr_" size, "xor %eax, %eax\n lock btr" s " $0, (%rdi)\n setc %al\n")
__asm__(KINDS("1", "b", "al", "dl") KINDS("2", "w", "ax", "dx") KINDS("4", "l", "eax", "edx")
        KINDS("8", "q", "rax", "rdx") BITS("2", "w") BITS("4", "l") BITS("8", "q")
        FUNCTION("cmpxchg_16", "push %rbx\n mov (%rdi), %rax\n mov 8(%rdi), %rdx\n"
                 "1: mov %rax, %rbx\n mov %rdx, %rcx\n add $1, %rbx\n adc $0, %rcx\n"
                 "lock cmpxchg16b (%rdi)\n jnz 1b\n pop %rbx\n"));

typedef unsigned long function(void *memory, unsigned long value);

#define NAMES(size) \
    extern function inc_##size, add_##size, xadd_##size, sub_##size, adc_##size, not_##size, or_##size, and_##size, \
        xor_##size, xchg_##size, cmpxchg_##size, other_inc_##size, other_not_##size, other_xchg_##size, \
        other_cmpxchg_##size;
NAMES(1) NAMES(2) NAMES(4) NAMES(8)
extern function bts_2, bts_4, bts_8, btr_2, btr_4, btr_8, cmpxchg_16, other_cmpxchg_16;

/* Two functions that are called in turn, and what the other process calls meanwhile; or else it adds 2. */
struct kind {
    const char *name;
    int size;
    function *first, *second, *other;
};
#define ROWS(size) \
    {"inc", size, inc_##size, inc_##size, other_inc_##size}, {"add", size, add_##size, add_##size, other_inc_##size}, \
        {"xadd", size, xadd_##size, xadd_##size, other_inc_##size}, \
        {"sub", size, sub_##size, sub_##size, other_inc_##size}, \
        {"adc", size, adc_##size, adc_##size, other_inc_##size}, \
        {"cmpxchg", size, cmpxchg_##size, cmpxchg_##size, other_cmpxchg_##size}, \
        {"not", size, not_##size, not_##size, other_not_##size}, {"or", size, or_##size, and_##size, 0}, \
        {"xor", size, xor_##size, xor_##size, 0}, {"xchg", size, xchg_##size, xchg_##size, other_xchg_##size}
static struct kind kinds[] = {ROWS(1), ROWS(2), ROWS(4), ROWS(8), {"bts", 2, bts_2, btr_2, 0},
                              {"bts", 4, bts_4, btr_4, 0}, {"bts", 8, bts_8, btr_8, 0},
                              {"cmpxchg", 16, cmpxchg_16, cmpxchg_16, other_cmpxchg_16}, {0}};

static struct {
    _Alignas(64) volatile unsigned __int128 word;
    _Alignas(64) volatile int stop, ready;
    _Alignas(64) volatile unsigned long through; /* So often a probed thread has made its change. */
    _Alignas(64) unsigned long others; /* So many changes the other process made. */
    unsigned long put, got;            /* By the other process, with XCHG. */
} *shared;

static struct kind *kind = kinds;
static unsigned long rounds, put, got, wrong;

static void add_twice(void *memory) {
    switch (kind->size) {
    case 1: __atomic_fetch_add((unsigned char *)memory, 2, __ATOMIC_SEQ_CST); break;
    case 2: __atomic_fetch_add((unsigned short *)memory, 2, __ATOMIC_SEQ_CST); break;
    case 4: __atomic_fetch_add((unsigned int *)memory, 2, __ATOMIC_SEQ_CST); break;
    case 8: __atomic_fetch_add((unsigned long *)memory, 2, __ATOMIC_SEQ_CST); break;
    }
}

static unsigned long mask(void) {
    return kind->size < 8 ? (1ul << kind->size * 8) - 1 : -1ul;
}

/* How a contender gives way: when it began to wait before its last change, and how long that was. */
struct pace {
    unsigned long begun, delay, random;
};

/* Until a probed thread has got through once more, and then for some part of the time that this takes, as the rounds before
 * tell: so the changes fall anywhere in a round, and nobody is kept from getting through on however slow a machine. */
static void give_way(struct pace *pace) {
    volatile unsigned long waited = 0;
    for (unsigned long before = shared->through; shared->through == before && !shared->stop;)
        waited++;
    unsigned long through = shared->through, made = through - pace->begun;
    unsigned long round = (pace->delay + waited) / (made ? made : 1);
    pace->begun = through;
    pace->random = pace->random * 6364136223846793005ul + 1442695040888963407ul;
    pace->delay = (pace->random >> 33) % (round + 1);
    for (waited = pace->delay; waited > 0; waited--)
        ;
}

/* At full speed; where the probed thread must see the same value twice, once for each time that it does. */
static void *other(void *argument) {
    void *memory = (void *)&shared->word;
    int compares = !strcmp(kind->name, "cmpxchg"), exchanges = !strcmp(kind->name, "xchg");
    unsigned long count = 0, given = 0, taken = 0;
    struct pace pace = {shared->through, 0, (unsigned long)&count};
    for (; !shared->stop; count++) {
        unsigned long value = count & mask();
        if (!kind->other)
            add_twice(memory);
        else if (exchanges) {
            given += value;
            taken += kind->other(memory, value) & mask();
        } else
            kind->other(memory, 0);
        shared->ready = 1;
        if (compares)
            give_way(&pace);
    }
    __atomic_fetch_add(&shared->others, count, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&shared->put, given, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&shared->got, taken, __ATOMIC_SEQ_CST);
    return argument;
}

static void *run(void *argument) {
    void *memory = (void *)&shared->word;
    int bits = !strcmp(kind->name, "bts");
    for (unsigned long i = 0; i < rounds; i++) {
        unsigned long value = (i << 8 | 1) & mask();
        unsigned long result = (i & 1 ? kind->second : kind->first)(memory, value) & mask();
        if (bits && result != (i & 1))
            __atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&put, value, __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&got, result, __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&shared->through, 1, __ATOMIC_SEQ_CST);
    }
    return argument;
}

int main(int number, char **arguments) {
    pthread_t thread[16], contender[2];
    int private = number > 5;
    pid_t child = 0;
    if (number < 5)
        return 2;
    while (kind->name && (strcmp(kind->name, arguments[1]) || kind->size != atoi(arguments[2])))
        kind++;
    unsigned long threads = atoi(arguments[3]);
    rounds = atoi(arguments[4]);
    if (!kind->name || threads > 16)
        return 2;
    shared = mmap(0, 4096, PROT_READ | PROT_WRITE, (private ? MAP_PRIVATE : MAP_SHARED) | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; private && i < 2; i++)
        pthread_create(&contender[i], 0, other, 0);
    if (!private && (child = fork()) == 0) {
        /* Nobody tells it to stop if this process is killed. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        other(0);
        _exit(0);
    }
    while (!shared->ready)
        ;
    for (unsigned long i = 1; i < threads; i++)
        pthread_create(&thread[i], 0, run, 0);
    run(0);
    for (unsigned long i = 1; i < threads; i++)
        pthread_join(thread[i], 0);
    shared->stop = 1;
    for (int i = 0; private && i < 2; i++)
        pthread_join(contender[i], 0);
    if (!private)
        waitpid(child, 0, 0);
    unsigned long is = shared->word, made = threads * rounds, expected;
    if (!strcmp(kind->name, "xchg")) {
        /* What was put in came out, once. */
        expected = put + shared->put;
        is += got + shared->got;
    } else if (!strcmp(kind->name, "not"))
        expected = (made + shared->others) & 1 ? -1ul : 0;
    else
        expected = kind->other ? made + shared->others : 2 * shared->others;
    printf("%lu\n", ((is - expected) & mask()) + wrong);
    return 0;
}
