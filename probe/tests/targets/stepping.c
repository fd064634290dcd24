/* Single-steps itself by the trap flag, and prints what each debug exception told. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

void stepped(char *to, const char *from);
extern char stepped_end[];
__asm__(".globl stepped, stepped_end\n"
        ".type stepped, @function\n"
        "stepped:\n"
        "  xor %eax, %eax\n"
        "  pushfq\n"
        "  orq $0x100, (%rsp)\n"
        "  popfq\n" /* No exception yet: the flag was clear before. */
        "  nop\n"
        "  mov $3, %ecx\n"
        "  rep movsb\n" /* One exception for each iteration. */
        "  pushfq\n"
        "  pop %r8\n"
        "  mov %ss, %edx\n"
        "  mov %edx, %ss\n" /* None after this. */
        "  inc %rdx\n"
        "  mov $39, %eax\n"
        "  syscall\n"
        "  mov %r11, %r9\n"
        "  mov %rcx, %r10\n"
        "  movq $0, -8(%rsp)\n"
        "  lock incq -8(%rsp)\n"
        "  int3\n"
        "  cmp %rcx, %rcx\n"
        "  je 1f\n"
        "  nop\n"
        "1: pushfq\n"
        "  andq $~0x100, (%rsp)\n"
        "  popfq\n" /* One more: the flag was set before. */
        "  mov %r8, %rax\n"
        "  ret\n"
        "stepped_end:\n"
        ".size stepped, . - stepped\n");

static struct {
    long rip, trapno, err, code, address, flags, rcx, r8, r9;
} seen[100];
static volatile int count;

static void trapped(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    long start = (long)stepped;
    (void)signal;
    if (count == 100)
        return;
    seen[count].rip = registers[REG_RIP] - start;
    seen[count].trapno = registers[REG_TRAPNO];
    seen[count].err = registers[REG_ERR];
    seen[count].code = info->si_code;
    seen[count].address = info->si_addr ? (long)info->si_addr - start : -1;
    seen[count].flags = registers[REG_EFL];
    seen[count].rcx = registers[REG_RCX] - (registers[REG_RCX] > 3 ? start : 0);
    seen[count].r8 = registers[REG_R8] & 0xfff;
    seen[count].r9 = registers[REG_R9] & 0xfff;
    count++;
}

int main(void) {
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
    char to[4] = "";
    sigaction(SIGTRAP, &action, 0);
    stepped(to, "abc");
    for (int i = 0; i < count; i++)
        printf("%lx: trapno %ld err %ld code %ld address %lx flags %lx rcx %lx r8 %lx r9 %lx\n", seen[i].rip,
               seen[i].trapno, seen[i].err, seen[i].code, seen[i].address, seen[i].flags, i ? seen[i].rcx : 0,
               i > 6 ? seen[i].r8 : 0, i > 12 ? seen[i].r9 : 0);
    printf("%d %s\n", count, to);
    return 0;
}
