// Sums up the bytes of its own function `work`, which is probed, and of which `sum` must see nothing.
#include <stdio.h>
#include <stdlib.h>

__attribute__((noinline)) long work(long value) {
    return value * 5 + 2;
}

__attribute__((noinline)) unsigned sum(const unsigned char *bytes, unsigned length) {
    unsigned total = 0;
    for (unsigned i = 0; i < length; i++) total = total * 31 + bytes[i];
    return total;
}

int main(int argc, char **argv) {
    if (work(8) != 42) return 2;
    printf("%u\n", sum((const unsigned char *)work, 8));
    return 0;
}
