/* A function that looks at its return address, as unwinders, garbage collectors and some allocators do. It is probed where
   it returns. */
#include "harm.h"
uint64_t self(void);
extern char behind[];
FUNCTION("self", ".globl site\nsite: push %rbp\nmov 8(%rsp), %rax\npop %rbp\nret");
uint64_t caller(void);
FUNCTION("caller", "sub $8, %rsp\ncall self\n.globl behind\nbehind: add $8, %rsp\nret");
int main(int count, char **arguments) {
  (void)count;
  int wrong = 0;
  for (int i = 0; i < CALLS; i++) wrong += caller() != (uint64_t)behind;
  return verdict(arguments, !wrong, "the return address was another in %d of %d calls", wrong, CALLS);
}
