// Makes threads while children that it forks end. Each calls `work`; at the end the number of calls is printed.
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILDREN = 300 };

static int over;

__attribute__((noinline)) long work(long x) {
    __asm__ volatile("" : "+r"(x));
    return x + 1;
}

static void *live(void *unused) {
    work(1);
    return unused;
}

static void *make_threads(void *made) {
    while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
        pthread_t thread;
        if (pthread_create(&thread, 0, live, 0)) break;
        pthread_join(thread, 0);
        ++*(long *)made;
    }
    return made;
}

int main(void) {
    pthread_t maker;
    long threads = 0;
    int failed = 0;
    if (pthread_create(&maker, 0, make_threads, &threads)) return 2;
    for (int i = 0; i < CHILDREN; i++) {
        pid_t child = fork();
        if (child == 0) _exit(work(2) == 3 ? 7 : 8);
        int status;
        failed |= child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7;
    }
    __atomic_store_n(&over, 1, __ATOMIC_RELAXED);
    pthread_join(maker, 0);
    printf("%ld\n", threads + CHILDREN);
    return failed;
}
