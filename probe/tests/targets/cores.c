// Goes from core to core and asks the processor where it is; counts the wrong answers.
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

__attribute__((noinline)) unsigned rdtscp(void) {
    unsigned core;
    __asm__ volatile("rdtscp" : "=c"(core) : : "rax", "rdx");
    return core & 0xfff;
}

// The limit of the segment in which Linux keeps the core's number.
__attribute__((noinline)) unsigned lsl(void) {
    unsigned core = -1;
    __asm__ volatile("lsl %1, %0" : "+r"(core) : "r"(0x7b) : "cc");
    return core & 0xfff;
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 1, wrong = 0;
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all)) return 99;
    for (int round = 0; round < rounds; round++) {
        for (int core = 0; core < CPU_SETSIZE; core++) {
            if (!CPU_ISSET(core, &all)) continue;
            CPU_ZERO(&one);
            CPU_SET(core, &one);
            if (sched_setaffinity(0, sizeof one, &one)) return 98;
            // Several times, so that whoever looks on gets used to it.
            for (int i = 0; i < round; i++) wrong += (rdtscp() != core) + (lsl() != core);
        }
    }
    return wrong > 90 ? 90 : wrong;
}
