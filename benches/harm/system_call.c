/* SYSCALL leaves the address behind it in RCX. */
#include "harm.h"
uint64_t call(void);
extern char behind[];
FUNCTION("call", "mov $39, %eax\n.globl site\nsite: syscall\n.globl behind\nbehind: mov %rcx, %rax\nret");
int main(int count, char **arguments) {
  (void)count;
  int wrong = 0;
  for (int i = 0; i < CALLS; i++) wrong += call() != (uint64_t)behind;
  return verdict(arguments, !wrong, "RCX named another address in %d of %d", wrong, CALLS);
}
