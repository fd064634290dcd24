/* A leaf function keeps data below its stack pointer, as the calling convention allows (System V ABI, 3.2.2). */
#include "harm.h"
uint64_t keep(uint64_t value);
FUNCTION("keep", "mov %rdi, -8(%rsp)\nmov %rdi, -16(%rsp)\n.globl site\nsite: nopl 8(%rax,%rax)\nmov -8(%rsp), %rax\nxor -16(%rsp), %rax\nmov -16(%rsp), %rdx\nxor %rdi, %rdx\nor %rdx, %rax\nret");
int main(int count, char **arguments) {
  (void)count;
  int lost = 0;
  for (uint64_t i = 1; i <= CALLS; i++) lost += keep(i * 0x9e3779b97f4a7c15) != 0;
  return verdict(arguments, !lost, "data in the red zone was destroyed in %d of %d calls", lost, CALLS);
}
