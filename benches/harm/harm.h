/* What the programs have in common: each has a global label `site`, where it is probed, and says in the end whether it
   found everything as it should be. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CALLS = 1000 };

/* Writes it into the file that the first argument names. With a second argument the program then waits for its end. */
__attribute__((unused)) static int verdict(char **arguments, int good, const char *format, ...) {
  FILE *file = arguments[1] ? fopen(arguments[1], "w") : stdout;
  if (!file) return 2;
  va_list list;
  va_start(list, format);
  fprintf(file, "%s: ", good > 1 ? "skipped" : good ? "right" : "WRONG");
  vfprintf(file, format, list);
  va_end(list);
  if (fclose(file)) return 2;
  while (arguments[1] && arguments[2]) pause();
  return !good;
}

/* Says that this machine does not have what the program is about. */
__attribute__((unused)) static int without(char **arguments, const char *what) {
  verdict(arguments, 2, "%s", what);
  return 0;
}

/* A function in assembly, of the C calling convention. */
#define FUNCTION(name, text) __asm__(".text\n.p2align 5, 0xcc\n.globl " name "\n.type " name ",@function\n" name ":\n" text "\n.size " name ",.-" name "\n.p2align 5, 0xcc")
