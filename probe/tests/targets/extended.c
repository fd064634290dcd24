// x87, MMX, SSE and AVX instructions, a function each; prints what they compute, in hexadecimal.
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>

struct state {
    unsigned char in[16], out[16];
    long double x87;
    unsigned char image[4096] __attribute__((aligned(64)));
};

_Static_assert(offsetof(struct state, image) == 64, "the assembly knows it");

// A function of these instructions and no others.
#define FUNCTION(name, text) \
    void name(struct state *state); \
    __asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name ":\n" text "\nret\n" \
            ".size " #name ", .-" #name);

FUNCTION(integer, "add %rdi, %rax")
FUNCTION(sse_load, "movups (%rdi), %xmm0")
FUNCTION(sse_compute, "movaps %xmm0, %xmm1\npaddd %xmm0, %xmm1\naddps %xmm0, %xmm1\ncvttss2si %xmm1, %eax")
FUNCTION(sse_store, "movups %xmm1, 16(%rdi)")
FUNCTION(sse_keep, "ucomiss %xmm1, %xmm1")
FUNCTION(x87, "fldt 32(%rdi)\nfld1\nfaddp\nfsqrt\nfsin\nfld %st(0)\nfmulp\nfstpt 32(%rdi)")
FUNCTION(mmx, "movq (%rdi), %mm0\npaddw %mm0, %mm0\nmovq2dq %mm0, %xmm3\nmovq %mm0, 16(%rdi)\nemms")

// Saves x87, SSE and AVX state, clears a register and restores it.
FUNCTION(save, "movups (%rdi), %xmm0\nmov $7, %eax\nxor %edx, %edx\nxsave 64(%rdi)\nxorps %xmm0, %xmm0\nxrstor 64(%rdi)\nmovups %xmm0, (%rdi)")

// Upper halves that are there stay where only lower ones change, and are cleared where they are to be.
FUNCTION(avx, "vmovups (%rdi), %ymm0\nvmovups (%rdi), %ymm1\nvmovups (%rdi), %ymm5\nvaddps %xmm0, %xmm0, %xmm2\nvcvttss2si %xmm2, %eax\n"
              "vinsertf128 $1, %xmm2, %ymm2, %ymm3\nvaddps %xmm2, %xmm0, %xmm4\nvaddps %xmm2, %xmm0, %xmm3\n"
              "mov $7, %eax\nxor %edx, %edx\nxsave 64(%rdi)\nvzeroupper")

static void print(const char *name, const struct state *state) {
    const unsigned char *bytes = (const unsigned char *)state;
    printf("%-12s", name);
    for (unsigned i = 0; i < sizeof state->in + sizeof state->out + 10; i++) printf("%02x", bytes[i]);
    printf("\n");
}

/* Six registers, and their upper halves. */
static void print_registers(const struct state *state) {
    printf("%-12s", "avx");
    for (unsigned i = 0; i < 6 * 16; i++) printf("%02x", state->image[160 + i]);
    for (unsigned i = 0; i < 6 * 16; i++) printf("%02x", state->image[576 + i]);
    printf("\n");
}

int main(int argc, char **argv) {
    int rounds = atoi(argv[1]);
    static struct state state = {.x87 = 1.25L};
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < 16; i++) state.in[i] = 3 * i + 17 * round;
        integer(&state);
        sse_load(&state);
        sse_compute(&state);
        sse_keep(&state);
        sse_store(&state);
        print("sse", &state);
        x87(&state);
        print("x87", &state);
        mmx(&state);
        print("mmx", &state);
        save(&state);
        print("save", &state);
        if (__builtin_cpu_supports("avx")) {
            avx(&state);
            print_registers(&state);
        }
    }
    return 0;
}
