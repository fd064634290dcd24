// Products of matrices by AMX, each printed; with "refused", what a program is told that has not asked for permission to
// use tiles. Ends with 77 if it asks and is refused.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096
#define ARCH_REQ_XCOMP_PERM 0x1023
#define TILE_DATA 18

// Functions of RDI, RSI and so on. Rows lie 64 bytes apart, and R10 is for that.
#define FUNCTION(name, text) \
    void name(void *, const void *, const void *); \
    asm(".text\n.globl " #name "\n.type " #name ",@function\n" #name ":\n mov $64,%r10d\n" text "\n ret\n.size " #name \
        ",.-" #name "\n");
FUNCTION(configure, "ldtilecfg (%rdi)")
FUNCTION(configuration, "sttilecfg (%rdi)")
FUNCTION(release, "tilerelease")
FUNCTION(zero, "tilezero %tmm3")
FUNCTION(load, "tileloadd (%rdi,%r10,1),%tmm3")
FUNCTION(store, "tilestored %tmm3,(%rdi,%r10,1)")
FUNCTION(integers, "tileloadd (%rdi,%r10,1),%tmm0\n tileloadd (%rsi,%r10,1),%tmm1\n tileloaddt1 (%rdx,%r10,1),%tmm2\n"
                   " tdpbssd %tmm2,%tmm1,%tmm0\n tdpbsud %tmm2,%tmm1,%tmm0\n tdpbusd %tmm2,%tmm1,%tmm0\n"
                   " tdpbuud %tmm2,%tmm1,%tmm0\n tilestored %tmm0,(%rdi,%r10,1)")
FUNCTION(numbers, "tileloadd (%rdi,%r10,1),%tmm0\n tileloadd (%rsi,%r10,1),%tmm1\n tileloadd (%rdx,%r10,1),%tmm2\n"
                  " tdpbf16ps %tmm2,%tmm1,%tmm0\n tilestored %tmm0,(%rdi,%r10,1)")
FUNCTION(product, "tdpbssd %tmm2,%tmm1,%tmm0")
FUNCTION(save, "mov $0x60000,%eax\n xor %edx,%edx\n xsavec (%rdi)")
FUNCTION(restore, "mov $0x60000,%eax\n xor %edx,%edx\n xrstor (%rdi)")

struct configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((packed));

static uint8_t c[1024] __attribute__((aligned(64))), a[1024], b[1024], image[12288] __attribute__((aligned(64)));
static char *pages;
static sigjmp_buf back;
static greg_t start;
static uint64_t state = 1;

static uint64_t draw(void) { return (state = state * 6364136223846793005u + 1442695040888963407u) >> 33; }

static uint64_t sum(const void *bytes, size_t length) {
    uint64_t sum = 14695981039346656037u;
    for (size_t i = 0; i < length; i++) sum = (sum ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
    return sum;
}

// Gives the page that a load or store wants, or leaves the instruction.
static void handler(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    long address = (greg_t)info->si_addr;
    if (signal == SIGILL) address -= start;
    else if (registers[REG_TRAPNO] == 14) address -= (greg_t)pages;
    printf("  signal %d code %d address %ld trapno %lld err %lld rip %lld\n", signal, info->si_code, address,
           registers[REG_TRAPNO], registers[REG_ERR], signal == SIGSEGV ? 0 : registers[REG_RIP] - start);
    if (signal == SIGSEGV && info->si_code == SEGV_ACCERR) {
        mprotect(pages + PAGE, PAGE, PROT_READ | PROT_WRITE);
        return;
    }
    siglongjmp(back, 1);
}

static void attempt(const char *name, void (*function)(void *, const void *, const void *), void *argument) {
    start = (greg_t)function;
    if (sigsetjmp(back, 1) == 0) {
        function(argument, a, b);
        printf("%s: fine\n", name);
    } else {
        printf("%s: left\n", name);
    }
}

static void without_permission(void) {
    struct configuration sizes = {.palette = 1, .bytes = {64, 64, 64, 64}, .rows = {16, 16, 16, 16}};
    attempt("configuration", configuration, image);
    attempt("configure", configure, &sizes);
    attempt("release", release, 0);
    attempt("zero", zero, 0);
    attempt("load", load, c);
    attempt("store", store, c);
    attempt("product", product, 0);
    attempt("save", save, image);
    printf("%016lx\n", sum(image, sizeof image));
    attempt("restore", restore, image);
}

static void one_round(int round) {
    int rows = 1 + draw() % 16, inner = 1 + draw() % 16, columns = 1 + draw() % 16;
    struct configuration sizes = {.palette = 1,
                                          .bytes = {4 * columns, 4 * inner, 4 * columns, 64},
                                          .rows = {rows, rows, inner, 16}};
    for (int i = 0; i < 1024; i++) c[i] = draw(), a[i] = draw(), b[i] = draw();
    configure(&sizes, 0, 0);
    integers(c, a, b);
    printf("%d: %d by %d by %d: %016lx", round, rows, inner, columns, sum(c, sizeof c));
    // Numbers of BF16 near one, and now and then any.
    for (int i = 1; i < 1024; i += 2) {
        if (draw() % 64) a[i] = 0x3f | (draw() & 0x80);
        if (draw() % 64) b[i] = 0x3f | (draw() & 0x80);
    }
    for (int i = 3; i < 1024; i += 4) c[i] = 0x3f;
    numbers(c, a, b);
    printf(" %016lx", sum(c, sizeof c));
    memset(image, 0, sizeof image);
    save(image, 0, 0);
    zero(0, 0, 0);
    restore(image, 0, 0);
    sizes.palette = 0;
    configuration(&sizes, 0, 0);
    store(c, 0, 0);
    printf(" %016lx %016lx %016lx\n", sum(&sizes, sizeof sizes), sum(image, sizeof image), sum(c, sizeof c));
}

static void faults(void) {
    struct configuration sizes = {.palette = 1, .bytes = {64, 64, 64, 64}, .rows = {16, 16, 8, 16}};
    configure(&sizes, 0, 0);
    for (int i = 0; i < 2 * PAGE; i++) pages[i] = draw();
    // Two rows and a half lie before the page that is not there yet.
    char *edge = pages + PAGE - 160;
    mprotect(pages + PAGE, PAGE, PROT_NONE);
    attempt("load across an edge", load, edge);
    mprotect(pages + PAGE, PAGE, PROT_NONE);
    attempt("store across an edge", store, edge);
    printf("%016lx\n", sum(pages, 2 * PAGE));
    attempt("load from nowhere", load, pages + 2 * PAGE);
    attempt("a product of sizes that do not fit", product, 0);
    sizes.rows[0] = 17;
    attempt("a configuration that is none", configure, &sizes);
    attempt("release", release, 0);
    attempt("load without configuration", load, pages);
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 1;
    setvbuf(stdout, 0, _IOFBF, 1 << 16);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER};
    for (const int *signal = (const int[]){SIGSEGV, SIGILL, 0}; *signal; signal++) sigaction(*signal, &action, 0);
    pages = mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(pages + 2 * PAGE, PAGE);
    if (argc > 1 && !strcmp(argv[1], "refused")) {
        without_permission();
        return 0;
    }
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA)) return 77;
    for (int round = 0; round < rounds; round++) one_round(round);
    faults();
    return 0;
}
