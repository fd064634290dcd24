/* A restartable sequence (rseq(2)): it is aborted where the kernel interrupts it, and tried again. Whoever resumes the
   thread elsewhere in the middle of it makes the kernel forget it: it then goes on without protection. */
#include "harm.h"
#include <sys/rseq.h>
static long counters[4096];
__asm__(".pushsection .data\n.balign 32\ndescriptor: .long 0,0\n.quad 1f, 2f-1f, 4f\n.popsection\n"
        ".text\n.globl increase\n.type increase,@function\nincrease:\nlea descriptor(%rip), %rax\nmov %rax, 8(%rdi)\n"
        "1: mov 4(%rdi), %eax\n.globl site\nsite: lea (%rsi,%rax,8), %rcx\nincq (%rcx)\n"
        "2: mov 8(%rdi), %rdx\nmovq $0, 8(%rdi)\nmov $1, %eax\ntest %rdx, %rdx\njne 3f\nmov $2, %eax\n3: ret\n"
        ".long 0x53053053\n4: xor %eax, %eax\nret\n.size increase,.-increase");
int increase(void *area, long *base);
int main(int count, char **arguments) {
  (void)count;
  if (!__rseq_size) return without(arguments, "no rseq here");
  char *area = (char *)__builtin_thread_pointer() + __rseq_offset;
  long aborts = 0, unprotected = 0;
  for (int i = 0; i < CALLS && aborts < 100000; i++) {
    int how;
    while (!(how = increase(area, counters)) && aborts < 100000) aborts++;
    unprotected += how == 2;
  }
  long sum = 0;
  for (int i = 0; i < 4096; i++) sum += counters[i];
  return verdict(arguments, sum == CALLS && aborts < CALLS && unprotected < CALLS / 2,
                 "%ld of %d increments, %ld aborts, %ld unprotected to the end", sum, CALLS, aborts, unprotected);
}
