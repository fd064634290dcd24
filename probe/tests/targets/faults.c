// Functions that fault, and a handler that checks what the kernel says of it. Ends with 0 if all is as it
// would be without a tracer; each check has its own exit status.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

static sigjmp_buf back;
static siginfo_t got;
static greg_t trapno, err, cr2, rip;

static void handler(int signal, siginfo_t *info, void *context) {
    ucontext_t *user = context;
    got = *info;
    trapno = user->uc_mcontext.gregs[REG_TRAPNO];
    err = user->uc_mcontext.gregs[REG_ERR];
    cr2 = user->uc_mcontext.gregs[REG_CR2];
    rip = user->uc_mcontext.gregs[REG_RIP];
    siglongjmp(back, 1);
}

int load(int *p);
int store(int *p);
int divide(int a, int b);
int push_at(void *stack);
asm(".text\n"
    ".type load,@function\nload: mov (%rdi),%eax\nret\n.size load,.-load\n"
    ".type store,@function\nstore: movl $5,(%rdi)\nret\n.size store,.-store\n"
    ".type divide,@function\ndivide: mov %edi,%eax\ncltd\nidiv %esi\nret\n.size divide,.-divide\n"
    ".type push_at,@function\npush_at: mov %rsp,%rax\nmov %rdi,%rsp\npush %rbx\nmov %rax,%rsp\nret\n"
    ".size push_at,.-push_at\n");

#define CHECK(condition, status) if (!(condition)) { \
    fprintf(stderr, "%s: signo %d code %d addr %p trapno %lld err %lld cr2 %llx\n", #condition, \
            got.si_signo, got.si_code, got.si_addr, trapno, err, cr2); \
    exit(status); }
#define FAULTS(call) (memset(&got, 0, sizeof got), sigsetjmp(back, 1) ? 1 : ((call), 0))

__attribute__((noinline)) long deep(long depth) {
    volatile char page[3000];
    page[0] = (char)depth;
    return depth == 0 ? 0 : deep(depth - 1) + page[0];
}

int main(void) {
    // A handler on its own stack: one of the faults is the stack pointer's.
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
    sigaltstack(&stack, 0);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    sigaction(SIGFPE, &action, 0);
    char *pages = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(pages, 1, 3 * 4096);
    mprotect(pages + 4096, 4096, PROT_READ);
    mprotect(pages + 2 * 4096, 4096, PROT_NONE);

    CHECK(FAULTS(load((int *)16)), 1);
    CHECK(got.si_signo == SIGSEGV && got.si_code == SEGV_MAPERR && got.si_addr == (void *)16, 2);
    CHECK(trapno == 14 && err == 4 && cr2 == 16 && rip == (greg_t)load, 3);
    CHECK(FAULTS(store((int *)32)), 4);
    CHECK(got.si_signo == SIGSEGV && got.si_code == SEGV_MAPERR && got.si_addr == (void *)32, 5);
    CHECK(trapno == 14 && err == 6 && cr2 == 32 && rip == (greg_t)store, 6);
    CHECK(FAULTS(store((int *)(pages + 4096))), 7);
    CHECK(got.si_signo == SIGSEGV && got.si_code == SEGV_ACCERR && got.si_addr == pages + 4096, 8);
    CHECK(trapno == 14 && err == 7 && cr2 == (greg_t)(pages + 4096), 9);
    // Across the edge of a page: the first page must keep its bytes.
    CHECK(FAULTS(store((int *)(pages + 4094))), 10);
    CHECK(got.si_addr == pages + 4096 && pages[4094] == 1 && pages[4095] == 1, 11);
    CHECK(FAULTS(load((int *)(pages + 2 * 4096 - 2))), 12);
    CHECK(got.si_code == SEGV_ACCERR && got.si_addr == pages + 2 * 4096 && err == 4, 13);
    CHECK(FAULTS(load((int *)0x8000000000000000)), 14);
    CHECK(got.si_signo == SIGSEGV && got.si_code == SI_KERNEL && trapno == 13 && err == 0, 15);
    CHECK(FAULTS(push_at((void *)0x8000000000000000)), 16);
    CHECK(got.si_signo == SIGBUS && got.si_code == SI_KERNEL && trapno == 12 && err == 0, 17);
    CHECK(FAULTS(divide(1, 0)), 18);
    CHECK(got.si_signo == SIGFPE && got.si_code == FPE_INTDIV, 19);
    CHECK((char *)got.si_addr > (char *)divide && (char *)got.si_addr < (char *)divide + 8, 20);
    CHECK(rip == (greg_t)got.si_addr, 21);
    CHECK(divide(42, 6) == 7, 22);
    store((int *)pages);
    CHECK(load((int *)pages) == 5, 23);
    // 6 MB of stack that nobody has touched: the kernel must grow it.
    CHECK(deep(2000) != 12345, 24);
    return 0;
}
