// USDT probes in every form of argument, with semaphores, made by hand as sys/sdt.h makes them.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// A nop, and a note that describes it.
#define PROBE(name, semaphore, arguments)                                                                   \
    "990: nop\n"                                                                                            \
    ".pushsection .note.stapsdt,\"\",\"note\"\n"                                                            \
    ".balign 4\n .4byte 992f-991f, 994f-993f, 3\n"                                                          \
    "991: .asciz \"stapsdt\"\n 992: .balign 4\n"                                                            \
    "993: .8byte 990b, _.stapsdt.base, " semaphore "\n"                                                     \
    ".asciz \"forms\"\n .asciz \"" name "\"\n .asciz \"" arguments "\"\n"                                   \
    "994: .balign 4\n .popsection\n"

asm(".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"
    ".weak _.stapsdt.base\n .hidden _.stapsdt.base\n _.stapsdt.base: .space 1\n .size _.stapsdt.base,1\n"
    ".popsection\n");

long table[] = {100, 200, 300, -400, 500};
short halves[] = {-1, -2, 3};
double real = 2.5;
float single = -0.75f;
__thread long local = 77;
unsigned short guarded_semaphore __attribute__((section(".probes")));
unsigned short other_semaphore __attribute__((section(".probes")));
const unsigned short constant_semaphore = 0;

void forms(void);
asm(".text\n.globl forms\n.type forms,@function\nforms:\n"
    "push %rbx\n"
    "lea table(%rip),%rbx\n lea halves(%rip),%rdx\n lea real(%rip),%rsi\n"
    "lea 24(%rbx),%rdi\n mov $2,%ecx\n mov $-2,%r8\n mov $0x1122334455667788,%rax\n"
    "movsd real(%rip),%xmm0\n movss single(%rip),%xmm1\n fld1\n"
    PROBE("forms", "0",
        "-4@%eax 1@%ah 2@%ax 2@%r8w -2@%r8w 8@-16(%rdi) -8@8(%rbx,%rcx,8) 8@8(%rbx,%rcx,8) -8@(%rbx,%rcx,8) "
        "8@table(%rip) 8@table+8(%rip) 8@16+table(%rip) -4@$-1 4@$5 8f@%xmm0 4f@%xmm1 4f@single(%rip) 8f@(%rsi) "
        "8@%fs:-8 -2@2(%rdx) -2@(,%rdx,1) %rcx 8f@%st 1@$0x41 8@missing(%rip) 4@0x10")
    "fstp %st\n pop %rbx\n ret\n .size forms,.-forms\n");

// As a compiler puts it where it is inlined: each time, its arguments are elsewhere.
__attribute__((noinline)) void many(void) {
    asm volatile("mov $7,%%edi\n" PROBE("many", "0", "-4@%%edi") ::: "rdi", "memory");
    asm volatile(PROBE("many", "0", "-4@$8") ::: "memory");
    asm volatile("mov $9,%%edx\n" PROBE("many", "0", "-4@%%edx 8@$1") ::: "rdx", "memory");
}

__attribute__((noinline)) void guarded(int value) {
    // Only then is it worth making the arguments.
    if (*(volatile unsigned short *)&guarded_semaphore)
        asm volatile(PROBE("guarded", "guarded_semaphore", "-4@%0") ::"r"(value) : "memory");
}

__attribute__((noinline)) void unwritable(void) {
    asm volatile(PROBE("unwritable", "constant_semaphore", "") ::: "memory");
    asm volatile(PROBE("other", "other_semaphore", "") ::: "memory");
}

static void tell(void) {
    printf("%u %u\n", *(volatile unsigned short *)&guarded_semaphore, *(volatile unsigned short *)&other_semaphore);
    fflush(stdout);
}

int main(int count, char **arguments) {
    if (count == 2 && !strcmp(arguments[1], "once")) {
        forms();
        many();
        guarded(1);
        unwritable();
        return 3;
    }
    char line[100];
    int number = 0;
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        switch (line[0]) {
        case 'h': guarded(++number); break;
        case 'f': {
            pid_t child = fork();
            if (!child) {
                guarded(1000);
                tell();
                _exit(0);
            }
            waitpid(child, 0, 0);
            break;
        }
        case 'x': execl("/proc/self/exe", arguments[0], NULL); abort();
        case '+': guarded_semaphore += 5; break;
        }
        tell();
    }
    return 9;
}
