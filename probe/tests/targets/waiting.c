// Threads that wait in system calls which fail with EINTR when a tracer interrupts them, and one that calls `leaf`. Ends
// when stdin does, and prints how often each call was interrupted.
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static atomic_int over, epoll_interrupted, receive_interrupted;
static atomic_long rounds;

__attribute__((noinline)) long leaf(long x) {
    __asm__ volatile("" : "+r"(x));
    return x + 1;
}

static void *wait_in_epoll(void *unused) {
    int epoll = epoll_create1(0);
    struct epoll_event event;
    while (!over)
        if (epoll_wait(epoll, &event, 1, 50) < 0 && errno == EINTR) epoll_interrupted++;
    return unused;
}

static void *wait_in_receive(void *unused) {
    int pair[2];
    char byte;
    struct timeval limit = {0, 50000};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return unused;
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    while (!over)
        if (recv(pair[0], &byte, 1, 0) < 0 && errno == EINTR) receive_interrupted++;
    return unused;
}

static void *call(void *unused) {
    while (!over) rounds = leaf(rounds);
    return unused;
}

int main(void) {
    pthread_t threads[3];
    void *(*bodies[3])(void *) = {wait_in_epoll, wait_in_receive, call};
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], 0, bodies[i], 0);
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0) {}
    over = 1;
    for (int i = 0; i < 3; i++) pthread_join(threads[i], 0);
    printf("%d %d\n", epoll_interrupted, receive_interrupted);
    return 0;
}
