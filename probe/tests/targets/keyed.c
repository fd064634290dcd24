// Memory that a protection key closes after the program has started. Prints what `peek` and `poke` come to; ends with
// 77 where there are no protection keys.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>

static sigjmp_buf back;
static int key;
static void *address;

static void handler(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    siglongjmp(back, info->si_code == SEGV_PKUERR && (int)info->si_pkey == key && info->si_addr == address ? 1 : 2);
}

int peek(int *p);
void poke(int *p);
asm(".text\n.type peek,@function\npeek: mov (%rdi),%eax\nret\n.size peek,.-peek\n"
    ".type poke,@function\npoke: movl $7,(%rdi)\nret\n.size poke,.-poke\n");

static void show(const char *what, int *p) {
    int how = sigsetjmp(back, 1);
    if (how) printf("%s forbidden%s\n", what, how == 1 ? "" : " wrongly");
    else if (*what == 'r') printf("%s %d\n", what, peek(p));
    else poke(p), printf("%s done\n", what);
}

int main(void) {
    key = pkey_alloc(0, 0);
    if (key < 0) return 77;
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, 0);
    int *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    address = p;
    *p = 42;
    if (pkey_mprotect(p, 4096, PROT_READ | PROT_WRITE, key)) return 77;
    pkey_set(key, PKEY_DISABLE_WRITE);
    show("read", p);
    show("write", p);
    pkey_set(key, PKEY_DISABLE_ACCESS);
    show("read", p);
    show("write", p);
    pkey_set(key, 0);
    show("write", p);
    show("read", p);
    return 0;
}
