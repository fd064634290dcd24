/* The mappings of the process, in the end. */
#include "harm.h"
void nothing(void);
FUNCTION("nothing", ".globl site\nsite: push %rbp\npop %rbp\nret");
int main(int count, char **arguments) {
  (void)count;
  for (int i = 0; i < CALLS; i++) nothing();
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[4096], names[4096] = "";
  int number = 0, foreign = 0;
  while (maps && fgets(line, sizeof line, maps)) {
    number++;
    line[strcspn(line, "\n")] = 0;
    char *name = strpbrk(line, "/[");
    int own = !name || strstr(line, "/mappings") || strstr(line, "libc.so") || strstr(line, "ld-linux") ||
              !strcmp(name, "[heap]") || !strcmp(name, "[stack]") || !strcmp(name, "[vdso]") ||
              !strncmp(name, "[vvar", 5) || !strcmp(name, "[vsyscall]");
    if (own) continue;
    foreign++;
    if (!strstr(names, name) && strlen(names) + strlen(name) + 2 < sizeof names) strcat(strcat(names, " "), name);
  }
  if (strlen(names) > 100) strcpy(names + 100, "...");
  return verdict(arguments, !foreign, "%d mappings of others%s", foreign, names);
}
