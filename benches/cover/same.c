/* 32 threads, forks while they run, and an object that is loaded: it prints the same each time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static atomic_long total;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long shared;
static int (*later)(int);
static long work(long id)
{
    long sum = 0;
    char buffer[64];
    for (int i = 0; i < 300; i++) {
        if ((i + id) % 5 == 0)
            sum += i * id;
        else
            sum ^= i;
        snprintf(buffer, sizeof buffer, "%ld", sum);
        sum += strlen(buffer);
        if (i % 50 == 0) {
            pthread_mutex_lock(&lock);
            shared += i;
            pthread_mutex_unlock(&lock);
            sum += later(i);
        }
        atomic_fetch_add(&total, 1);
    }
    return sum;
}
static void *thread(void *argument) { return (void *)work((long)argument); }
static int child(int n)
{
    long sum = 0;
    for (int i = 0; i < 3; i++)
        sum += work(n + i) & 7;
    return sum & 63;
}
int main(void)
{
    void *object = dlopen("./later.so", RTLD_NOW);
    if (!object) return 1;
    *(void **)&later = dlsym(object, "later");
    pthread_t threads[32];
    long sum = 0;
    int codes = 0;
    for (long i = 0; i < 32; i++)
        pthread_create(&threads[i], 0, thread, (void *)i);
    for (int i = 0; i < 4; i++) {
        pid_t pid = fork();
        if (!pid) { total = 0; pthread_mutex_init(&lock, 0); _exit(child(i)); }
        int status;
        waitpid(pid, &status, 0);
        codes = codes * 3 + WEXITSTATUS(status) + (WIFSIGNALED(status) ? 1000 : 0);
    }
    for (int i = 0; i < 32; i++) {
        void *result;
        pthread_join(threads[i], &result);
        sum += (long)result;
    }
    printf("%ld %ld %ld %d\n", sum, (long)total, shared, codes);
    return 7;
}
