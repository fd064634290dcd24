/* isolated TIMES THREADS: hundreds of instructions lie between two hits. Compiled twice: what has SITE, and lines, and the
 * rest without any. */
#ifdef SITE
unsigned long isolated(unsigned long x) { return x * 3 + 1; }
#else
#include <pthread.h>
#include <stdlib.h>

extern unsigned long isolated(unsigned long);
static unsigned long times;

static void *work(void *unused)
{
    unsigned long sum = 0;
    for (unsigned long i = 0; i < times; i++) {
        sum = isolated(sum);
        for (int k = 0; k < 100; k++)
            sum ^= sum << 3 ^ k;
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
#endif
