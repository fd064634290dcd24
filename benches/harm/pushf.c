/* What PUSHF pushes is what the program has in RFLAGS: TF is not set. */
#include "harm.h"
uint64_t flags(void);
FUNCTION("flags", ".globl site\nsite: pushfq\npop %rax\nret");
int main(int count, char **arguments) {
  (void)count;
  int stepped = 0;
  for (int i = 0; i < CALLS; i++) stepped += flags() >> 8 & 1;
  return verdict(arguments, !stepped, "TF was set in %d of %d", stepped, CALLS);
}
