/* A load that a protection key forbids faults (pkeys(7)). */
#include "harm.h"
#include <sys/mman.h>
static volatile int forbidden;
static void handler(int number, siginfo_t *information, void *context) {
  (void)number, (void)context;
  forbidden += information->si_code == SEGV_PKUERR;
  pkey_set(1, 0);
}
uint64_t load(void *from);
FUNCTION("load", ".globl site\nsite: mov (%rdi), %rax\nret");
int main(int count, char **arguments) {
  (void)count;
  int key = pkey_alloc(0, 0);
  if (key < 0) return without(arguments, "no protection keys here");
  void *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED || pkey_mprotect(page, 4096, PROT_READ | PROT_WRITE, key)) return 2;
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  sigaction(SIGSEGV, &action, 0);
  for (int i = 0; i < CALLS; i++) {
    pkey_set(key, PKEY_DISABLE_ACCESS);
    load(page);
  }
  return verdict(arguments, forbidden == CALLS, "%d of %d forbidden loads faulted", forbidden, CALLS);
}
