// Threads that call one function, which adds to a shared counter. Ends with 0 if no addition was lost.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static long total;

__attribute__((noinline)) void work(long amount) {
    __atomic_fetch_add(&total, amount, __ATOMIC_SEQ_CST);
}

static void *run(void *rounds) {
    for (long i = 0; i < (long)rounds; i++) work(i & 3);
    return 0;
}

int main(int argc, char **argv) {
    long threads = atol(argv[1]), rounds = atol(argv[2]);
    pthread_t thread[64];
    for (long i = 0; i < threads; i++) pthread_create(&thread[i], 0, run, (void *)rounds);
    for (long i = 0; i < threads; i++) pthread_join(thread[i], 0);
    long expected = 0;
    for (long i = 0; i < rounds; i++) expected += i & 3;
    return total == threads * expected ? 0 : 1;
}
