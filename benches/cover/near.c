/* near TIMES THREADS: each line of a loop is near the one before. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static unsigned long times;

static void *work(void *unused)
{
    unsigned long sum = 0;
    for (unsigned long i = 0; i < times; i++) {
        if (i % 3 == 0)
            sum += i * 7;
        else
            sum ^= i;
        sum = sum << 3 | sum >> 61;
    }
    return (char *)unused + sum;
}

int main(int count, char **arguments)
{
    pthread_t threads[64];
    times = strtoul(arguments[1], 0, 0);
    int number = atoi(arguments[2]);
    if (number == 1)
        return work(0) == arguments;
    for (int i = 0; i < number; i++)
        pthread_create(&threads[i], 0, work, 0);
    for (int i = 0; i < number; i++)
        pthread_join(threads[i], 0);
    return count - 3;
}
