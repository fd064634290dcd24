/* A program that has a handler for SIGTRAP, and blocks the signal. */
#include "harm.h"
static volatile int caught;
static void handler(int number) { caught += number == SIGTRAP; }
void nothing(void);
FUNCTION("nothing", ".globl site\nsite: push %rbp\npop %rbp\nret");
int main(int count, char **arguments) {
  (void)count;
  struct sigaction action = {.sa_handler = handler}, found;
  sigaction(SIGTRAP, &action, 0);
  sigset_t blocked, mask;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTRAP);
  sigprocmask(SIG_BLOCK, &blocked, 0);
  for (int i = 0; i < CALLS; i++) nothing();
  sigaction(SIGTRAP, 0, &found);
  sigprocmask(SIG_BLOCK, 0, &mask);
  int kept = found.sa_handler == handler, still = sigismember(&mask, SIGTRAP);
  return verdict(arguments, kept && still && !caught, "its handler is %s, the signal is %s, caught %d times",
                 kept ? "there" : "gone", still ? "blocked" : "not blocked", caught);
}
