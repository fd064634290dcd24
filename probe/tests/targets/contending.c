/* Counts in several threads, by atomic instructions of every size. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

struct {
    unsigned __int128 pair;
    unsigned long quad;
    unsigned int dword;
    unsigned char padding[3];
    unsigned short word; /* Across two doublewords. */
    unsigned char byte;
    unsigned long across; /* Not aligned. */
} __attribute__((packed, aligned(64))) counters;

void bump(void *counters);
void bump_pair(void *counters);
__asm__(".globl bump, bump_pair\n"
        ".type bump, @function\n"
        "bump:\n"
        "  lock incq 16(%rdi)\n"
        "  lock incl 24(%rdi)\n"
        "  lock incw 31(%rdi)\n"
        "  lock incb 33(%rdi)\n"
        "  mov $1, %eax\n"
        "  lock xadd %rax, 34(%rdi)\n"
        "  ret\n"
        ".size bump, . - bump\n"
        ".type bump_pair, @function\n"
        "bump_pair:\n"
        "  push %rbx\n"
        "  mov (%rdi), %rax\n"
        "  mov 8(%rdi), %rdx\n"
        "1: mov %rax, %rbx\n"
        "  mov %rdx, %rcx\n"
        "  add $1, %rbx\n"
        "  adc $0, %rcx\n"
        "exchange_pair:\n"
        "  lock cmpxchg16b (%rdi)\n"
        "  jnz 1b\n"
        "  pop %rbx\n"
        "  ret\n"
        ".size bump_pair, . - bump_pair\n");

static int rounds;

static void *count(void *argument) {
    for (int i = 0; i < rounds; i++) {
        bump(&counters);
        bump_pair(&counters);
    }
    return argument;
}

static int pipe_ends[2], waits;

static void *wait_in_epoll(void *argument) {
    struct epoll_event event = {.events = EPOLLIN};
    (void)argument;
    waits = epoll_create1(0);
    epoll_ctl(waits, EPOLL_CTL_ADD, pipe_ends[0], &event);
    return (void *)(long)epoll_wait(waits, &event, 1, -1);
}

int main(int number, char **arguments) {
    pthread_t threads[4], waiter;
    void *woken;
    rounds = number > 1 ? atoi(arguments[1]) : 100;
    counters.pair = 0xffffffffffffff00;
    pipe(pipe_ends);
    pthread_create(&waiter, 0, wait_in_epoll, 0);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], 0, count, 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], 0);
    write(pipe_ends[1], "x", 1);
    pthread_join(waiter, &woken);
    printf("%llx%016llx %lu %u %u %u %lu\n", (unsigned long long)(counters.pair >> 64),
           (unsigned long long)counters.pair, counters.quad, counters.dword, counters.word, counters.byte,
           counters.across);
    /* Only what no tracer holds up: the pair takes all threads to a stop. */
    if (number > 2)
        printf("epoll_wait %ld\n", (long)woken);
    return 0;
}
