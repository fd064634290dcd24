// Functions for handlers to change. Prints what each call came to.
#include <stdio.h>
#include <stdlib.h>

long integer(long x);
double real(double x);
long elsewhere(long x);
asm(".text\n"
    ".type integer,@function\ninteger: lea 1(%rdi),%rax\nret\n.size integer,.-integer\n"
    // The first instruction has nothing to do with XMM0, which holds the argument.
    ".type real,@function\nreal: nop\naddsd %xmm0,%xmm0\nret\n.size real,.-real\n"
    ".type elsewhere,@function\nelsewhere: lea 100(%rdi),%rax\nret\n.size elsewhere,.-elsewhere\n");

int main(int argc, char **argv) {
    long rounds = argc > 1 ? atol(argv[1]) : 1;
    for (long i = 0; i < rounds; i++) {
        // In this order, which that of arguments need not be.
        long first = integer(i);
        double second = real((double)i + 0.5);
        long third = elsewhere(i);
        printf("%ld %.3f %ld\n", first, second, third);
    }
    return 0;
}
