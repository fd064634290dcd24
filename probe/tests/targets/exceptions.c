/* Raises exceptions and prints what the signal handler is told. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

/* Each of these raises its exception between two labels; the handler goes on at the second. */
#define RAISES(name, before, raising, after)                                                              \
    void name(void *);                                                                                    \
    extern char name##_at[], name##_then[];                                                               \
    __asm__(".globl " #name "," #name "_at," #name "_then\n.type " #name ", @function\n" #name ":\n" before \
            "\n" #name "_at: " raising "\n" #name "_then: " after "\n  ret\n.size " #name ", . - " #name "\n")

RAISES(divide, "xor %ecx, %ecx", "div %ecx", "");
RAISES(undefined, "", "ud2", "");
RAISES(breakpoint, "", "int3", "");
RAISES(breakpoint_2, "", ".byte 0xcd, 3", "");
RAISES(debug, "", ".byte 0xf1", "");
RAISES(overflow, "", "int $4", "");
RAISES(gate, "", "int $0x21", "");
RAISES(halt, "", "hlt", "");
RAISES(input, "mov $0x80, %dx", "in %dx, %al", "");
RAISES(selector, "mov $0x1234, %eax", "mov %eax, %ds", "");
RAISES(load, "", "mov (%rdi), %al", "");
RAISES(store, "", "movl $1, (%rdi)", "");
RAISES(atomic, "", "lock incl (%rdi)", "");
RAISES(not_canonical, "mov $0x8000000000000000, %rax", "mov (%rax), %al", "");
RAISES(stack, "mov %rsp, %rdx; mov $0x8000000000000000, %rsp", "push %rax", "mov %rdx, %rsp");
RAISES(alignment, "pushfq; orq $0x40000, (%rsp); popfq", "mov -7(%rsp), %eax",
       "pushfq; andq $~0x40000, (%rsp); popfq");
#ifdef FLOATING
RAISES(x87, "fninit; push $0x37b; fldcw (%rsp); pop %rax; fld1; fldz; fdivrp", "fwait", "fninit");
RAISES(simd_divide, "push $0x1d80; ldmxcsr (%rsp); pop %rax; pxor %xmm0, %xmm0; pcmpeqd %xmm1, %xmm1; pslld $25, %xmm1; psrld $2, %xmm1",
       "divps %xmm0, %xmm1", "push $0x1f80; ldmxcsr (%rsp); pop %rax");
RAISES(simd_invalid, "push $0x1f00; ldmxcsr (%rsp); pop %rax; pxor %xmm0, %xmm0", "divss %xmm0, %xmm0",
       "push $0x1f80; ldmxcsr (%rsp); pop %rax");
#endif

static char *at, *then;
static volatile unsigned long address;
static volatile int raised;

static void handler(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    long where = (long)info->si_addr - (long)at;
    /* Handlers inherit the alignment check. */
    __asm__ volatile("pushfq; andq $~0x40000, (%%rsp); popfq" ::: "memory", "cc");
    raised++;
    printf("signal %d code %d address ", signal, info->si_code);
    if (where >= 0 && where < 16)
        printf("+%ld", where);
    else
        printf("%p", info->si_addr);
    printf(" rip %+lld trapno %lld err %llx", (long long)registers[REG_RIP] - (long long)at,
           (long long)registers[REG_TRAPNO], (unsigned long long)registers[REG_ERR]);
    if (registers[REG_TRAPNO] == 14)
        printf(" cr2 %llx", (unsigned long long)registers[REG_CR2]);
    printf(" flags %llx\n", (unsigned long long)registers[REG_EFL] & 0x40500);
    registers[REG_EFL] &= ~0x40000;
    registers[REG_RIP] = (greg_t)then;
}

static void run(const char *name, void (*function)(void *), char *from, char *to, void *argument) {
    at = from;
    then = to;
    printf("%s: ", name);
    raised = 0;
    function(argument);
    if (!raised)
        printf("nothing\n");
}
#define RUN(name, argument) run(#name, name, name##_at, name##_then, argument)

static char *page;

/* Reads what the kernel tells and repairs the cause. */
static void repair(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    printf("signal %d code %d trapno %lld err %llx cr2 %+lld\n", signal, info->si_code,
           (long long)registers[REG_TRAPNO], (unsigned long long)registers[REG_ERR],
           (long long)registers[REG_CR2] - (long long)page);
    if (registers[REG_TRAPNO] != 14 || raised++ > 5)
        registers[REG_RIP] = (greg_t)then;
    int writes = registers[REG_ERR] & 2;
    mprotect((void *)(registers[REG_CR2] & -4096), 4096, writes ? PROT_READ | PROT_WRITE : PROT_READ);
}

void copy(char *to, const char *from, long count);
__asm__(".globl copy\n.type copy, @function\ncopy: mov %rdx, %rcx\ncopy_at: rep movsb\n  ret\n.size copy, . - copy\n");

static volatile long progress[3];
static char *target, *source;

/* Repairs the page on which the copy has stopped. */
static void resume_copy(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    printf("signal %d at %+ld: rcx %lld rdi %+lld rsi %+lld err %llx cr2 %+lld\n", signal,
           (long)((char *)info->si_addr - target), (long long)registers[REG_RCX],
           (long long)registers[REG_RDI] - (long long)target, (long long)registers[REG_RSI] - (long long)source,
           (unsigned long long)registers[REG_ERR], (long long)registers[REG_CR2] - (long long)target);
    mprotect((void *)((unsigned long)info->si_addr & -4096), 4096, PROT_READ | PROT_WRITE);
}

void far_return(void);
__asm__(".globl far_return\n.type far_return, @function\n"
        "far_return:\n"
        "  lea 1f(%rip), %rax\n"
        "  mov %cs, %ecx\n"
        "  push %rcx\n"
        "  push %rax\n"
        "  lretq\n"
        "  ud2\n"
        "1: ret\n"
        ".size far_return, . - far_return\n");

static void install(void (*function)(int, siginfo_t *, void *)) {
    int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    struct sigaction action = {.sa_sigaction = function, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, 0);
}

int main(void) {
    static char alternate[65536];
    stack_t stack_of_handlers = {alternate, 0, sizeof alternate};
    setvbuf(stdout, 0, _IONBF, 0);
    sigaltstack(&stack_of_handlers, 0);
    install(handler);
    RUN(divide, 0);
    RUN(undefined, 0);
    RUN(breakpoint, 0);
    RUN(breakpoint_2, 0);
    RUN(debug, 0);
    RUN(overflow, 0);
    RUN(gate, 0);
    RUN(halt, 0);
    RUN(input, 0);
    RUN(selector, 0);
    RUN(load, (void *)0x123);
    RUN(store, (void *)0x321);
    RUN(atomic, (void *)0x456);
    RUN(not_canonical, 0);
    RUN(stack, 0);
    RUN(alignment, 0);
#ifdef FLOATING
    RUN(x87, 0);
    RUN(simd_divide, 0);
    RUN(simd_invalid, 0);
#endif
    install(repair);
    page = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    RUN(load, page + 5);
    RUN(store, page + 8);
    printf("%d\n", page[8]);
    install(resume_copy);
    target = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    source = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 3 * 4096; i++)
        source[i] = i / 7;
    mprotect(target + 4096, 4096, PROT_READ);
    mprotect(target + 8192, 4096, PROT_NONE);
    copy(target + 100, source + 50, 10000);
    printf("copied %d\n", memcmp(target + 100, source + 50, 10000));
    far_return();
    printf("returned\n");
    return 0;
}
