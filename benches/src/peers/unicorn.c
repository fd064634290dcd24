/* How long the instructions of a loop take under unicorn: unicorn WAY COUNT prints the nanoseconds of one.
   WAY is "step" (each by a uc_emu_start of its own, with the registers written before and read after it), "bare" (the
   same without the registers) or "loop" (all by one). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <unicorn/unicorn.h>

enum { CODE = 0x100000, DATA = 0x200000, PAGE = 0x1000 };

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e9 + time.tv_nsec;
}

int main(int count, char **arguments) {
  if (count == 2 && !strcmp(arguments[1], "version")) {
    unsigned major, minor;
    unsigned all = uc_version(&major, &minor);
    return printf("%u.%u.%u\n", major, minor, all >> 8 & 0xff) < 0;
  }
  if (count < 4) return 2;
  long wanted = atol(arguments[2]);
  const char *hex = arguments[3];
  uint8_t code[256];
  size_t length = strlen(hex) / 2;
  if (length > sizeof code) return 2;
  for (size_t i = 0; i < length; i++) {
    unsigned byte;
    if (sscanf(hex + 2 * i, "%2x", &byte) != 1) return 2;
    code[i] = byte;
  }
  uc_engine *engine;
  if (uc_open(UC_ARCH_X86, UC_MODE_64, &engine) || uc_mem_map(engine, CODE, PAGE, UC_PROT_ALL) ||
      uc_mem_map(engine, DATA, PAGE, UC_PROT_ALL) || uc_mem_write(engine, CODE, code, length))
    return 1;
  int names[18] = {UC_X86_REG_RAX, UC_X86_REG_RBX, UC_X86_REG_RCX, UC_X86_REG_RDX, UC_X86_REG_RSI, UC_X86_REG_RDI,
                   UC_X86_REG_RBP, UC_X86_REG_RSP, UC_X86_REG_R8,  UC_X86_REG_R9,  UC_X86_REG_R10, UC_X86_REG_R11,
                   UC_X86_REG_R12, UC_X86_REG_R13, UC_X86_REG_R14, UC_X86_REG_R15, UC_X86_REG_RIP, UC_X86_REG_EFLAGS};
  uint64_t values[18] = {0};
  void *places[18];
  for (int i = 0; i < 18; i++) places[i] = &values[i];
  values[7] = DATA + PAGE / 2, values[5] = DATA + 512, values[16] = CODE, values[17] = 2;
  if (uc_reg_write_batch(engine, names, places, 18)) return 1;
  int bare = !strcmp(arguments[1], "bare"), loop = !strcmp(arguments[1], "loop");
  uint64_t address = CODE;
  double start = now();
  if (loop) {
    if (uc_emu_start(engine, CODE, 0, 0, wanted)) return 1;
  } else {
    for (long i = 0; i < wanted; i++) {
      if (!bare && uc_reg_write_batch(engine, names, places, 18)) return 1;
      if (uc_emu_start(engine, address, 0, 0, 1)) return 1;
      if (bare) {
        if (uc_reg_read(engine, UC_X86_REG_RIP, &address)) return 1;
      } else {
        if (uc_reg_read_batch(engine, names, places, 18)) return 1;
        address = values[16];
      }
    }
  }
  printf("%f\n", (now() - start) / wanted);
  return 0;
}
