/* isolated TIMES THREADS: hundreds of instructions lie between two hits. Compiled twice: what has SITE, and lines, and the
 * rest without any. */
#ifdef SITE
unsigned long isolated(unsigned long x) { return x * 3 + 1; }
#else
#include "threads.h"

extern unsigned long isolated(unsigned long);

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
#endif
