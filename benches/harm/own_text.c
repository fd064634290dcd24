/* A program that reads its own text, as those do that check whether somebody has changed it. */
#include "harm.h"
void nothing(void);
extern unsigned char site[];
FUNCTION("nothing", ".globl site\nsite: push %rbp\nmov %rsp, %rbp\npop %rbp\nret");
int main(int count, char **arguments) {
  (void)count;
  static const unsigned char compiled[] = {0x55, 0x48, 0x89, 0xe5, 0x5d, 0xc3};
  for (int i = 0; i < CALLS; i++) nothing();
  char found[3 * sizeof compiled + 1] = "";
  for (size_t i = 0; i < sizeof compiled; i++) sprintf(found + 3 * i, "%02x ", ((volatile unsigned char *)site)[i]);
  return verdict(arguments, !memcmp(site, compiled, sizeof compiled), "it reads %s", found);
}
