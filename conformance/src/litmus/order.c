/*
 * Litmus tests of memory order and of single copies: order NAME ROUNDS. One side executes functions named probed_NAME,
 * the other side unprobed ones, at full speed. Prints how often it saw what is forbidden, and what is allowed but weak.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUNCTION(name, body) ".globl " name "\n.type " name ", @function\n" name ":\n" body "ret\n.size " name ", . - " name "\n"
/* One that is probed, and one that does the same. Where a thread that runs on has stored to a page before, stores may wait:
 * so that those may on which the test depends, others are made before them. */
#define BOTH(name, body) FUNCTION("probed_" name, body) FUNCTION("plain_" name, body)
__asm__(
    /* rdi: x, rsi: y, rdx: a number or where to store what was read. */
    BOTH("write", "mov %rdx, (%rdi)\n mov %rdx, (%rsi)\n")
    BOTH("read", "mov (%rsi), %rax\n mov (%rdi), %rcx\n mov %rax, (%rdx)\n mov %rcx, 8(%rdx)\n")
    BOTH("load_store", "mov (%rdi), %rax\n mov %rdx, (%rsi)\n")
    BOTH("copy", "mov (%rsi), %rax\n mov %rax, (%rdi)\n")
    BOTH("buffer", "movq $0, 8(%rdi)\n movq $1, (%rdi)\n mov (%rsi), %rax\n")
    BOTH("buffer_mfence", "movq $0, 8(%rdi)\n movq $1, (%rdi)\n mfence\n mov (%rsi), %rax\n")
    BOTH("buffer_lock", "movq $0, 8(%rdi)\n movq $1, (%rdi)\n lock orl $0, (%rsp)\n mov (%rsi), %rax\n")
    BOTH("buffer_xchg", "mov $1, %eax\n xchg %rax, (%rdi)\n mov (%rsi), %rax\n")
    /* Eight messages, from that number on. */
    BOTH("write_many", "mov $8, %ecx\n1: mov %rdx, (%rdi)\n mov %rdx, (%rsi)\n inc %rdx\n dec %ecx\n jnz 1b\n")
    /* Stores, and loads of the same, of all and beyond one. Not zero if these are not what was stored, less than 1 << 32. */
    BOTH("own", "xor %eax, %eax\n mov $4, %ecx\n1: mov %rdx, (%rdi)\n mov (%rdi), %r8\n xor %rdx, %r8\n or %r8, %rax\n"
                "movl $0, 4(%rdi)\n mov (%rdi), %r8\n xor %rdx, %r8\n or %r8, %rax\n inc %rdx\n dec %ecx\n jnz 1b\n")
    BOTH("twice", "mov (%rdi), %rax\n mov (%rdi), %rcx\n mov %rax, (%rdx)\n mov %rcx, 8(%rdx)\n")
    BOTH("both", "movq $0, 8(%rdi)\n movq $0, 8(%rsi)\n movq $1, (%rdi)\n movq $2, (%rsi)\n")
    /* rdi: sequence number, rsi: two numbers, rdx: what to write, or where to. */
    BOTH("seqlock_write", "incq (%rdi)\n mov %rdx, (%rsi)\n mov %rdx, 8(%rsi)\n incq (%rdi)\n")
    BOTH("seqlock_read", "mov (%rdi), %rax\n mov (%rsi), %rcx\n mov %rcx, (%rdx)\n mov 8(%rsi), %rcx\n"
                         "mov %rcx, 8(%rdx)\n xor (%rdi), %rax\n")
    /* rdi: to, rsi: from. What is stored at last is the opposite of what is loaded. */
    BOTH("store_2", "mov (%rsi), %ax\n mov %ax, (%rdi)\n not %eax\n mov %ax, (%rdi)\n")
    BOTH("store_4", "mov (%rsi), %eax\n mov %eax, (%rdi)\n not %eax\n mov %eax, (%rdi)\n")
    BOTH("store_8", "mov (%rsi), %rax\n mov %rax, (%rdi)\n not %rax\n mov %rax, (%rdi)\n")
    BOTH("store_16", "pcmpeqd %xmm1, %xmm1\n movaps (%rsi), %xmm0\n movaps %xmm0, (%rdi)\n pxor %xmm1, %xmm0\n"
                     "movaps %xmm0, (%rdi)\n")
    BOTH("vstore_16", "vpcmpeqd %xmm1, %xmm1, %xmm1\n vmovdqa (%rsi), %xmm0\n vmovdqa %xmm0, (%rdi)\n"
                      "vpxor %xmm1, %xmm0, %xmm0\n vmovdqa %xmm0, (%rdi)\n")
    BOTH("store_32", "vxorps %ymm1, %ymm1, %ymm1\n vcmpps $0, %ymm1, %ymm1, %ymm1\n vmovdqa (%rsi), %ymm0\n"
                     "vmovdqa %ymm0, (%rdi)\n vxorps %ymm1, %ymm0, %ymm0\n vmovdqa %ymm0, (%rdi)\n")
    BOTH("store_64", "vmovdqa64 (%rsi), %zmm0\n vmovdqa64 %zmm0, (%rdi)\n vpternlogd $0x55, %zmm0, %zmm0, %zmm0\n"
                     "vmovdqa64 %zmm0, (%rdi)\n"));

typedef unsigned long function(void *, void *, unsigned long);
#define DECLARE(name) extern function probed_##name, plain_##name;
DECLARE(write) DECLARE(read) DECLARE(load_store) DECLARE(copy) DECLARE(buffer) DECLARE(buffer_mfence)
DECLARE(buffer_lock) DECLARE(buffer_xchg) DECLARE(write_many) DECLARE(own) DECLARE(twice) DECLARE(both)
DECLARE(seqlock_write) DECLARE(seqlock_read) DECLARE(store_2)
DECLARE(store_4) DECLARE(store_8) DECLARE(store_16) DECLARE(vstore_16) DECLARE(store_32) DECLARE(store_64)

static _Alignas(64) volatile unsigned long x[8], y[8], go[8], done[8], stop[8], number[8];
static _Alignas(64) volatile unsigned long pair[8];
static _Alignas(4096) unsigned char pages[1 << 16];
static unsigned long rounds, forbidden, weak, result;

static void spin(unsigned long times) {
    for (volatile unsigned long i = 0; i < times; i++)
        ;
}

/* Until the other side has come so far, which may need this processor for it. */
static void wait_for(volatile unsigned long *place, unsigned long what) {
    for (unsigned long i = 1; *place != what; i++)
        if (i % 4096 == 0)
            sched_yield();
}

struct test {
    const char *name;
    void (*here)(struct test *), *(*there)(void *);
    function *ours, *theirs;
    int size, promised;
};

/* Message passing: who sees the second store sees the first. */
static void check_message(unsigned long *seen) {
    forbidden += seen[1] < seen[0];
}
static void write_messages(struct test *test) {
    for (unsigned long i = 1; i <= rounds; i++)
        test->ours((void *)x, (void *)y, i);
}
static void write_many_messages(struct test *test) {
    for (unsigned long i = 0; i < rounds; i++)
        test->ours((void *)x, (void *)y, 8 * i + 1);
}
static void *read_messages(void *argument) {
    struct test *test = argument;
    unsigned long seen[2];
    for (go[0] = 1; !stop[0];) {
        test->theirs((void *)x, (void *)y, (unsigned long)seen);
        check_message(seen);
    }
    return 0;
}
static void read_messages_here(struct test *test) {
    unsigned long seen[2];
    for (unsigned long i = 1; i <= rounds; i++) {
        test->ours((void *)x, (void *)y, (unsigned long)seen);
        check_message(seen);
    }
}
static void *write_messages_there(void *argument) {
    struct test *test = argument;
    unsigned long i = 1;
    for (go[0] = 1; !stop[0];)
        test->theirs((void *)x, (void *)y, i++);
    return 0;
}

/* Coherence: what grows is not seen to shrink, as of messages, and a thread sees what it has stored. */
static void store_own(struct test *test) {
    for (unsigned long i = 1; i <= rounds; i++)
        forbidden += test->ours((void *)x, (void *)y, 4 * i) != 0;
}
/* Load buffering: what comes of a store does not show in the load before it. */
static void load_and_store(struct test *test) {
    for (unsigned long i = 1; i <= rounds; i++)
        forbidden += test->ours((void *)x, (void *)y, i) >= i;
}
static void *copy_there(void *argument) {
    struct test *test = argument;
    for (go[0] = 1; !stop[0];)
        test->theirs((void *)x, (void *)y, 0);
    return 0;
}
static void copy_here(struct test *test) {
    for (unsigned long i = 1; i <= rounds; i++)
        test->ours((void *)x, (void *)y, 0);
}
static void *load_and_store_there(void *argument) {
    struct test *test = argument;
    unsigned long i = 1;
    for (go[0] = 1; !stop[0]; i++)
        forbidden += test->theirs((void *)x, (void *)y, i) >= i;
    return 0;
}

/* Store buffering: with a barrier, one of both sees the other's store. */
static void buffer_here(struct test *test) {
    for (unsigned long i = 1; i <= rounds; i++) {
        x[0] = y[0] = 0;
        number[0] = i;
        unsigned long ours = test->ours((void *)x, (void *)y, 0);
        wait_for(done, i);
        if (!ours && !result)
            ++*(test->promised ? &forbidden : &weak);
    }
}
static void *buffer_there(void *argument) {
    struct test *test = argument;
    go[0] = 1;
    for (unsigned long i = 1; i <= rounds; i++) {
        wait_for(number, i);
        /* Sooner or later in the time that the other takes. */
        spin(i * 7919 % 8000);
        result = test->theirs((void *)y, (void *)x, 0);
        done[0] = i;
    }
    return 0;
}

/* Two stores each, in opposite order: not both first ones are the last. */
static void both_here(struct test *test) {
    for (unsigned long i = 1; i <= rounds; i++) {
        number[0] = i;
        test->ours((void *)x, (void *)y, 0);
        wait_for(done, i);
        forbidden += x[0] == 1 && y[0] == 1;
    }
}
static void *both_there(void *argument) {
    struct test *test = argument;
    go[0] = 1;
    for (unsigned long i = 1; i <= rounds; i++) {
        wait_for(number, i);
        spin(i * 7919 % 8000);
        test->theirs((void *)y, (void *)x, 0);
        done[0] = i;
    }
    return 0;
}

/* A seqlock: no half of a pair is seen with an even number that has not changed. */
static void check_pair(unsigned long before, unsigned long changed, unsigned long *seen) {
    forbidden += !(before & 1) && !changed && seen[0] != seen[1];
}
static void write_pairs(struct test *test) {
    for (unsigned long i = 1; i <= rounds; i++)
        test->ours((void *)x, (void *)pair, i);
}
static void *read_pairs(void *argument) {
    struct test *test = argument;
    for (go[0] = 1; !stop[0];) {
        unsigned long seen[2], before = x[0];
        check_pair(before, test->theirs((void *)x, (void *)pair, (unsigned long)seen) | (x[0] != before), seen);
    }
    return 0;
}
static void read_pairs_here(struct test *test) {
    for (unsigned long i = 1; i <= rounds; i++) {
        unsigned long seen[2], before = x[0];
        check_pair(before, test->ours((void *)x, (void *)pair, (unsigned long)seen) | (x[0] != before), seen);
    }
}
static void *write_pairs_there(void *argument) {
    struct test *test = argument;
    unsigned long i = 1;
    for (go[0] = 1; !stop[0]; i++) {
        test->theirs((void *)x, (void *)pair, i);
        spin(i * 7919 % 100000);
    }
    return 0;
}

/* All bytes of what is stored are the same, so they are in what is loaded. The place in the page changes. */
static const _Alignas(64) unsigned char patterns[2][64] = {
    {0}, {[0 ... 63] = 0xff}};
static void *place_of(unsigned long i, int size) {
    return pages + i * 7919 * 64 % sizeof pages + (i * 31 * size) % 64;
}
static void check_copy(struct test *test, unsigned char *copy) {
    int torn = 0;
    for (int i = 1; i < test->size; i++)
        torn |= copy[i] != copy[0];
    if (torn)
        ++*(test->promised ? &forbidden : &weak);
}
static void store_here(struct test *test) {
    for (unsigned long i = 0; i < rounds; i++) {
        number[0] = i / 64;
        test->ours(place_of(i / 64, test->size), (void *)patterns[i & 1], 0);
    }
}
static void *load_there(void *argument) {
    struct test *test = argument;
    _Alignas(64) unsigned char copy[64];
    for (go[0] = 1; !stop[0];) {
        test->theirs(copy, place_of(number[0], test->size), 0);
        check_copy(test, copy);
    }
    return 0;
}
static void load_here(struct test *test) {
    _Alignas(64) unsigned char copy[64];
    for (unsigned long i = 0; i < rounds; i++) {
        number[0] = i / 64;
        test->ours(copy, place_of(i / 64, test->size), 0);
        check_copy(test, copy);
    }
}
static void *store_there(void *argument) {
    struct test *test = argument;
    unsigned long i = 0;
    for (go[0] = 1; !stop[0];)
        test->theirs(place_of(number[0], test->size), (void *)patterns[i++ & 1], 0);
    return 0;
}

#define BUFFER(name, promised) \
    {#name, buffer_here, buffer_there, probed_##name, plain_##name, 8, promised}, \
        {#name "_both", buffer_here, buffer_there, probed_##name, probed_##name, 8, promised}
#define COPY(name, size, promised) \
    {"torn_" #name, store_here, load_there, probed_##name, plain_##name, size, promised}, \
        {"torn_load_" #name, load_here, store_there, probed_##name, plain_##name, size, promised}
static struct test tests[] = {
    {"message_write", write_messages, read_messages, probed_write, plain_read, 8, 1},
    {"message_write_many", write_many_messages, read_messages, probed_write_many, plain_read, 8, 1},
    {"coherence_read", read_messages_here, write_messages_there, probed_twice, plain_write, 8, 1},
    {"coherence_write", store_own, read_messages, probed_own, plain_twice, 8, 1},
    {"both_stores", both_here, both_there, probed_both, plain_both, 8, 1},
    {"message_read", read_messages_here, write_messages_there, probed_read, plain_write, 8, 1},
    {"load_buffering", load_and_store, copy_there, probed_load_store, plain_copy, 8, 1},
    {"load_buffering_copy", copy_here, load_and_store_there, probed_copy, plain_load_store, 8, 1},
    BUFFER(buffer, 0), BUFFER(buffer_mfence, 1), BUFFER(buffer_lock, 1), BUFFER(buffer_xchg, 1),
    {"seqlock_write", write_pairs, read_pairs, probed_seqlock_write, plain_seqlock_read, 8, 1},
    {"seqlock_read", read_pairs_here, write_pairs_there, probed_seqlock_read, plain_seqlock_write, 8, 1},
    COPY(store_2, 2, 1), COPY(store_4, 4, 1), COPY(store_8, 8, 1), COPY(store_16, 16, 1), COPY(vstore_16, 16, 1),
    COPY(store_32, 32, 0), COPY(store_64, 64, 0), {0}};

int main(int count, char **arguments) {
    struct test *test = tests;
    pthread_t thread;
    if (count < 3)
        return 2;
    while (test->name && strcmp(test->name, arguments[1]))
        test++;
    if (!test->name)
        return 2;
    int wide = test->size == 64 ? __builtin_cpu_supports("avx512f") : __builtin_cpu_supports("avx");
    /* Of 16 bytes nothing is promised where there is no AVX. */
    if (test->size >= 16 && !wide)
        return 77;
    rounds = atol(arguments[2]);
    pthread_create(&thread, 0, test->there, test);
    wait_for(go, 1);
    test->here(test);
    stop[0] = 1;
    pthread_join(thread, 0);
    printf("%lu %lu\n", forbidden, weak);
    return 0;
}
