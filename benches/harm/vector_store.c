/* A store of 32 bytes. */
#include "harm.h"
void store(const void *from, void *to);
FUNCTION("store", "vmovdqu (%rdi), %ymm0\n.globl site\nsite: vmovdqu %ymm0, (%rsi)\nvzeroupper\nret");
int main(int count, char **arguments) {
  (void)count;
  if (!__builtin_cpu_supports("avx2")) return without(arguments, "no AVX2 here");
  int lost = 0;
  for (int i = 1; i <= CALLS; i++) {
    char from[32], to[32] = {0};
    memset(from, i | 1, sizeof from);
    store(from, to);
    lost += memcmp(from, to, sizeof to) != 0;
  }
  return verdict(arguments, !lost, "%d of %d stores did not happen", lost, CALLS);
}
