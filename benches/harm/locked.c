/* A LOCK INC, as reference counts are made of. */
#include "harm.h"
void increase(uint32_t *counter);
FUNCTION("increase", ".globl site\nsite: lock incl (%rdi)\nret");
int main(int count, char **arguments) {
  (void)count;
  uint32_t counter = 0;
  for (int i = 0; i < CALLS; i++) increase(&counter);
  return verdict(arguments, counter == CALLS, "%u of %d increments", counter, CALLS);
}
