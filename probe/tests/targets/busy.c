// Threads that call one function until standard input ends. Ends with 0 if each call did its work.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static volatile int stop;

__attribute__((noinline)) long step(long value) {
    return value * 3 + 1;
}

static void *run(void *unused) {
    long value = 1, check = 1, wrong = 0;
    while (!stop) {
        value = step(value);
        check = check * 3 + 1;
        wrong |= value != check;
    }
    return (void *)wrong;
}

int main(int argc, char **argv) {
    int threads = atoi(argv[1]);
    pthread_t thread[64];
    for (int i = 0; i < threads; i++) pthread_create(&thread[i], 0, run, 0);
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0) {}
    stop = 1;
    long wrong = 0;
    for (int i = 0; i < threads; i++) {
        void *result;
        pthread_join(thread[i], &result);
        wrong |= (long)result;
    }
    return wrong != 0;
}
