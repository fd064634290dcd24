/* near TIMES THREADS: each line of a loop is near the one before. */
#include "threads.h"

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
