// 32-bit code in a 64-bit process: `compat` is called by far pointer with CS 0x23, and comes back by another. Its
// instructions are other ones as 64-bit code. Prints what it computes, from memory below 4 GiB.
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile sig_atomic_t traps;
static void trapped(int signal) { (void)signal; traps++; }

uint64_t call_compat(void *stack, uint32_t argument, uint32_t *memory);
asm(".text\n"
    ".type compat,@function\n"
    "compat:\n"
    ".byte 0x41\n"                             // inc %ecx; as 64-bit code, a prefix of the next one
    ".byte 0x89,0xc8\n"                        // mov %ecx,%eax
    ".byte 0x4e\n"                             // dec %esi
    ".byte 0x46\n"                             // inc %esi
    ".byte 0x03,0x05\n.long low\n"             // add low,%eax; relative to RIP as 64-bit code
    ".byte 0x40\n"                             // inc %eax
    ".byte 0x8b,0x1e\n"                        // mov (%esi),%ebx
    ".byte 0x01,0xd8\n"                        // add %ebx,%eax
    ".byte 0x50\n"                             // push %eax: four bytes
    ".byte 0x8d,0x7e,0x08\n"                   // lea 8(%esi),%edi
    ".byte 0x8d,0x49,0x02\n"                   // lea 2(%ecx),%ecx
    ".byte 0xf3,0xaa\n"                        // rep stos %al,%es:(%edi)
    ".byte 0xb8,0x14,0,0,0\n"                  // mov $20,%eax: getpid
    ".byte 0xcd,0x80\n"                        // int $0x80
    ".byte 0x89,0xc2\n"                        // mov %eax,%edx
    ".byte 0xcc\n"                             // int3
    ".byte 0x58\n"                             // pop %eax
    ".byte 0xcb\n"                             // lret: four-byte RIP and CS
    ".size compat,.-compat\n"
    ".data\n.globl low\nlow: .long 1000\n.text\n"
    ".type call_compat,@function\n"
    "call_compat:\n"
    "push %rbx\npush %rbp\n"
    "mov %rsp,%rbp\n"
    "mov %rdi,%rsp\n"
    "mov %esi,%ecx\nmov %rdx,%rsi\n"
    "mov $0x2b,%eax\nmov %eax,%ds\nmov %eax,%es\n"  // which 64-bit code does not need
    "sub $16,%rsp\n"
    "movl $back,(%rsp)\nmovl $0x33,4(%rsp)\n"  // where the 32-bit code returns to
    "sub $8,%rsp\n"
    "movl $compat,(%rsp)\nmovl $0x23,4(%rsp)\n"
    "lretl\n"
    "back:\n"
    "mov %rbp,%rsp\npop %rbp\npop %rbx\n"
    "shl $32,%rdx\nor %rdx,%rax\n"
    "ret\n.size call_compat,.-call_compat\n");

int main(void) {
    signal(SIGTRAP, trapped);
    char *stack = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    uint32_t *memory = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (stack == MAP_FAILED || memory == MAP_FAILED) return 2;
    for (uint32_t i = 0; i < 3; i++) {
        *memory = 100 * i;
        uint64_t result = call_compat(stack + 65536, i, memory);
        if (result >> 32 != (uint64_t)getpid()) return 3;
        printf("%u %d %x\n", (uint32_t)result, (int)traps, memory[2]);
    }
    return 0;
}
