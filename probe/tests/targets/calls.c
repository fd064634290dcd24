/*
 * calls NAME TIMES: says "ready", waits for a line, and then executes one instruction so often: the first of a
 * function that is called so. Ends with 77 where the processor lacks it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUNCTION(name, body) ".globl " name "\n.type " name ", @function\n" name ":\n" body "ret\n.size " name ", . - " name "\n"
/* Lines, where the compiler writes none (-g0): far from each other, and two that are not. */
#ifdef LINES
#define FILE_OF_LINES ".file 1 \"/nowhere/alone.s\"\n"
#define LINE(line) ".loc 1 " line " is_stmt 1\n"
#define NO_LINE ".loc 1 9 is_stmt 0\n"
#else
#define FILE_OF_LINES
#define LINE(line)
#define NO_LINE
#endif
#define FAR ".rept 100\nmov (%rdi), %rax\n.endr\n"
__asm__(FUNCTION("short_nop", "nop\n") FUNCTION("long_nop", "nopl (%rax)\n") FUNCTION("move", "mov %rsi, %rax\n")
        FUNCTION("load", "mov (%rdi), %rax\n") FUNCTION("store", "mov %rsi, (%rdi)\n")
        FUNCTION("multiply", "mul %rsi\n")
        FUNCTION("sse", "addps %xmm1, %xmm0\n") FUNCTION("sse_compare", "ucomiss %xmm1, %xmm0\n")
        FUNCTION("entry", "endbr64\n")
        FILE_OF_LINES FUNCTION("alone", LINE("1") "nopl (%rax)\n" NO_LINE FAR)
        FUNCTION("pair", LINE("3") "nopl (%rax)\n" LINE("4") "nopl (%rax)\n" NO_LINE FAR)
        FUNCTION("sse_prefix", "paddd %xmm1, %xmm0\n") FUNCTION("avx", "vaddps %ymm1, %ymm0, %ymm0\n")
        FUNCTION("avx_upper", "vinsertf128 $1, %xmm0, %ymm0, %ymm0\n")
        FUNCTION("avx_compare", "vucomiss %xmm1, %xmm0\n")
        /* Of RDI, RSI times: with a place in memory and a number that it holds, which is another each time, and never what
         * RAX and XMM0 hold or come to. */
        ".globl repeat\n.type repeat, @function\n"
        "repeat:\n push %rbx\n push %r12\n push %r13\n mov %rdi, %r12\n mov %rsi, %rbx\n mov %rdx, %r13\n"
        "mov $0x3f800000, %edx\n movd %edx, %xmm1\n"
        "1: mov %rbx, %rsi\n mov %r13, %rdi\n mov %rsi, (%rdi)\n mov %rsi, %rax\n neg %rax\n mov $-1, %rdx\n"
        "movd %esi, %xmm0\n call *%r12\n dec %rbx\n jnz 1b\n"
        "pop %r13\n pop %r12\n pop %rbx\n ret\n.size repeat, . - repeat\n");

typedef void function(unsigned long *memory, unsigned long number);
extern void repeat(function *, unsigned long times, unsigned long *memory);
extern function short_nop, entry, long_nop, move, load, store, multiply, sse, sse_compare, sse_prefix, avx, avx_upper,
    avx_compare, alone, pair;

static struct {
    const char *name;
    function *function;
} all[] = {{"short_nop", short_nop},     {"long_nop", long_nop}, {"move", move},         {"load", load},
           {"store", store},             {"multiply", multiply}, {"sse", sse},           {"sse_compare", sse_compare},
           {"sse_prefix", sse_prefix},   {"avx", avx},           {"avx_upper", avx_upper},
           {"avx_compare", avx_compare}, {"entry", entry},       {"alone", alone},       {"pair", pair}};

int main(int count, char **arguments) {
    static unsigned long memory;
    char line[8];
    if (count < 3)
        return 2;
    if (!strncmp(arguments[1], "avx", 3) && !__builtin_cpu_supports("avx"))
        return 77;
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 3;
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(all[i].name, arguments[1])) {
            repeat(all[i].function, strtoul(arguments[2], 0, 10), &memory);
            return 0;
        }
    return 4;
}
