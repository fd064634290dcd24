// What no tracer can do for a thread. Prints what it comes to.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

long toggle(void);
long peek(const void *p);
asm(".text\n"
    // RFLAGS.ID, which PTRACE_SETREGS leaves as it is.
    ".type toggle,@function\ntoggle: pushf\nmov (%rsp),%rcx\nxorl $0x200000,(%rsp)\n"
    "popf\n"
    "pushf\npop %rax\nxor %rcx,%rax\n"
    "push %rcx\npopf\nret\n.size toggle,.-toggle\n"
    ".type peek,@function\npeek: mov (%rdi),%rax\nret\n.size peek,.-peek\n");

int main(void) {
    // No other process can read these pages.
    uint64_t vvar = 0;
    char line[300];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps)) if (strstr(line, "[vvar]")) vvar = strtoull(line, 0, 16);
    printf("%lx\n", toggle());
    if (vvar) printf("vvar\n"), peek((void *)vvar);
    return 0;
}
