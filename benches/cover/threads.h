/* NAME TIMES THREADS: so many threads, or the first one alone, do `work` so often. */
#include <pthread.h>
#include <stdlib.h>

static unsigned long times;
static void *work(void *unused);

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
