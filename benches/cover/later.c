/* Loaded by same. */
#include <stdlib.h>
int later(int x)
{
    int y = 0;
    for (int i = 0; i < 20; i++)
        if ((x + i) % 3) y += i; else y ^= x;
    return y;
}
