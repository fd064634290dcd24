// Makes system calls and adds to a number. Below everything else that is mapped, code that it has written itself has the
// same instructions, until it takes the permission to execute that away. Ends with 0 if each came to what it should.
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, ROUNDS = 100 };

// SYSCALL; LOCK XADD [RDI], EAX.
static const unsigned char same[] = {0x0f, 0x05, 0xf0, 0x0f, 0xc1, 0x07};

long enter(long call);
int add(volatile int *to, int value);
__asm__(".text\n"
        ".globl enter\n.type enter, @function\nenter: mov %rdi, %rax\n syscall\n ret\n.size enter, .-enter\n"
        ".globl add\n.type add, @function\nadd: mov %esi, %eax\n lock xadd %eax, (%rdi)\n ret\n.size add, .-add\n");

static int go_on(volatile int *number) {
    long pid = getpid();
    int wrong = 0;
    for (int i = 0; i < ROUNDS; i++) {
        int before = *number;
        wrong += enter(SYS_getpid) != pid;
        wrong += add(number, 1) != before || *number != before + 1;
    }
    return wrong;
}

int main(void) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    void *code = mmap((void *)0x10000, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    // Memory that is shared is where an atomic access is made by the thread.
    volatile int *number = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED || number == MAP_FAILED) return 2;
    memcpy(code, same, sizeof same);
    mprotect(code, PAGE, PROT_READ | PROT_EXEC);
    puts("ready");
    fflush(stdout);
    getchar();
    int wrong = go_on(number);
    mprotect(code, PAGE, PROT_NONE);
    wrong += go_on(number);
    return wrong != 0;
}
