// Every instruction on every kind of page, and what a signal handler is told of it: one line each. With an argument,
// another thread shares the memory meanwhile.
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096

static sigjmp_buf back;
static siginfo_t got;
static greg_t registers[NGREG];

static void handler(int signal, siginfo_t *info, void *context) {
    (void)signal;
    got = *info;
    memcpy(registers, ((ucontext_t *)context)->uc_mcontext.gregs, sizeof registers);
    siglongjmp(back, 1);
}

// Each works on what RDI points to, with the flags that `run` sets.
#define INSTRUCTION(name, text) \
    void i_##name(void *); \
    asm(".text\n.type i_" #name ",@function\ni_" #name ": " text "\nret\n.size i_" #name ",.-i_" #name "\n");
#define INSTRUCTIONS(X) \
    X(load, "movl (%rdi),%eax") \
    X(load_byte, "movb 3(%rdi),%al") \
    X(compare, "cmpl $5,(%rdi)") \
    X(load_vector, "movups (%rdi),%xmm1") \
    X(load_ymm, "vmovdqu (%rdi),%ymm1") \
    X(add_vector, "paddd (%rdi),%xmm1") \
    X(load_x87, "fldt (%rdi)") \
    X(store, "movl $5,(%rdi)") \
    X(store_vector, "movups %xmm1,(%rdi)") \
    X(store_ymm, "vmovdqu %ymm1,(%rdi)") \
    X(store_x87, "fstcw (%rdi)") \
    X(set, "setc (%rdi)") \
    X(add, "addl $1,(%rdi)") \
    X(shift, "shll $1,(%rdi)") \
    X(negate, "negb (%rdi)") \
    X(bit, "btsl $3,(%rdi)") \
    X(locked_increment, "lock incl (%rdi)") \
    X(locked_byte, "lock incb 1(%rdi)") \
    X(locked_bit, "lock btsl $3,(%rdi)") \
    X(exchange, "xchgl %eax,(%rdi)") \
    X(exchange_add, "lock xaddl %eax,(%rdi)") \
    X(compare_exchange, "lock cmpxchgl %ecx,(%rdi)") \
    X(compare_exchange_plain, "cmpxchgl %ecx,(%rdi)") \
    X(compare_exchange_pair, "push %rbx\nlock cmpxchg8b (%rdi)\npop %rbx") \
    X(push, "push (%rdi)\npop %rax") \
    X(pop, "push %rax\npop (%rdi)") \
    X(to_stack, "mov %rsp,%rsi\nmov %rdi,%rsp\npush %rax\nmov %rsi,%rsp") \
    X(from_stack, "mov %rsp,%rsi\nmov %rdi,%rsp\npop %rax\nmov %rsi,%rsp") \
    X(stos, "mov $5000,%ecx\nrep stosb") \
    X(store_table, "sgdt (%rdi)") \
    X(store_interrupt_table, "sidt (%rdi)") \
    X(store_status_word, "smsw (%rdi)") \
    X(store_local_table, "sldt (%rdi)") \
    X(store_task, "str (%rdi)") \
    X(lods, "mov %rdi,%rsi\nlodsq") \
    X(movs_from, "mov %rdi,%rsi\nmov scratch(%rip),%rdi\nmov $5000,%ecx\nrep movsb") \
    X(movs_to, "mov scratch(%rip),%rsi\nmov $5000,%ecx\nrep movsb")
INSTRUCTIONS(INSTRUCTION)
// These raise other exceptions, whatever the page.
#define OTHERS(X) \
    X(divide, "xor %ecx,%ecx\nxor %edx,%edx\ndivl %ecx") \
    X(undefined, "ud2") \
    X(privileged, "hlt") \
    X(not_canonical, "mov $0x8000000000000000,%rax\nmov (%rax),%eax") \
    X(not_canonical_stack, "mov %rsp,%rsi\nmov $0x8000000000000000,%rsp\npush %rax\nmov %rsi,%rsp") \
    X(misaligned_vector, "movaps 4(%rsp),%xmm0") \
    X(overflow_trap, "int $4") \
    X(breakpoint, "int3") \
    X(vector_exception, "movl $0,-8(%rsp)\nldmxcsr -8(%rsp)\nsqrtss minus_one(%rip),%xmm0") \
    X(x87_exception, "fninit\nmovw $0,-8(%rsp)\nfldcw -8(%rsp)\nfldz\nfld1\nfdivp\nfwait")
OTHERS(INSTRUCTION)
asm(".data\nminus_one: .float -1\n.text\n");
char *scratch;

#define NAME(name, text) {#name, i_##name},
static const struct { const char *name; void (*run)(void *); } instructions[] = {INSTRUCTIONS(NAME)};
static const struct { const char *name; void (*run)(void *); } others[] = {OTHERS(NAME)};

static char *area;
static int file, key = -1;

static void map(int protection, int flags, int descriptor) {
    if (mmap(area, PAGE, protection, MAP_FIXED | flags, descriptor, 0) == MAP_FAILED) abort();
}
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS), -1
#define ALL (PROT_READ | PROT_WRITE)

// Each makes the second page of `area`.
static void writable(void) { map(ALL, ANONYMOUS); }
static void written(void) { map(ALL, ANONYMOUS); *area = 1; }
static void unmapped(void) { munmap(area, PAGE); }
static void none(void) { map(PROT_NONE, ANONYMOUS); }
static void none_touched(void) { written(); mprotect(area, PAGE, PROT_NONE); }
static void read_only(void) { map(PROT_READ, ANONYMOUS); }
static void read_only_read(void) { map(PROT_READ, ANONYMOUS); *(volatile char *)area; }
static void read_only_written(void) { written(); mprotect(area, PAGE, PROT_READ); }
static void writable_read(void) { map(ALL, ANONYMOUS); *(volatile char *)area; }
static void write_only(void) { map(PROT_WRITE, ANONYMOUS); }
static void write_only_touched(void) { written(); mprotect(area, PAGE, PROT_WRITE); }
static void execute_only(void) { map(PROT_EXEC, ANONYMOUS); }
static void execute_only_touched(void) { written(); mprotect(area, PAGE, PROT_EXEC); }
static void file_shared(void) { map(ALL, MAP_SHARED, file); }
static void file_private(void) { map(ALL, MAP_PRIVATE, file); }
static void file_read_only(void) { map(PROT_READ, MAP_SHARED, file); }
static void file_read_only_touched(void) { map(PROT_READ, MAP_SHARED, file); *(volatile char *)area; }
static void beyond_the_end(void) {
    if (mmap(area, PAGE, ALL, MAP_FIXED | MAP_SHARED, file, 16 * PAGE) == MAP_FAILED) abort();
}
static void key_protect(int rights) { pkey_mprotect(area, PAGE, ALL, key); pkey_set(key, rights); }
static void key_closed(void) { map(ALL, ANONYMOUS); key_protect(PKEY_DISABLE_ACCESS); }
static void key_closed_touched(void) { written(); key_protect(PKEY_DISABLE_ACCESS); }
static void key_unwritable(void) { map(ALL, ANONYMOUS); key_protect(PKEY_DISABLE_WRITE); }
static void key_unwritable_touched(void) { written(); key_protect(PKEY_DISABLE_WRITE); }
static void key_open(void) { written(); key_protect(0); }

#define STATE(name) {#name, name}
static const struct { const char *name; void (*make)(void); } states[] = {
    STATE(writable), STATE(written), STATE(unmapped), STATE(none), STATE(none_touched), STATE(read_only),
    STATE(read_only_read), STATE(read_only_written), STATE(writable_read), STATE(write_only),
    STATE(write_only_touched), STATE(execute_only), STATE(execute_only_touched), STATE(file_shared),
    STATE(file_private), STATE(file_read_only), STATE(file_read_only_touched), STATE(beyond_the_end),
    STATE(key_closed), STATE(key_closed_touched), STATE(key_unwritable), STATE(key_unwritable_touched),
    STATE(key_open),
};
#define FIRST_WITH_KEY 18

static void run(const char *name, const char *state, void (*instruction)(void *), char *operand) {
    memset(&got, 0, sizeof got);
    memset(registers, 0, sizeof registers);
    int faulted = sigsetjmp(back, 1);
    if (!faulted) {
        asm volatile("fninit" ::: "memory");
        unsigned mxcsr = 0x1f80;
        asm volatile("ldmxcsr %0" :: "m"(mxcsr));
        // All status flags set; the instructions use what these registers hold.
        asm volatile("mov $-1,%%eax\nmov $1,%%edx\nmov $2,%%ecx\npushq $0x8d7\npopfq\ncall *%1\ncld"
                     : "+D"(operand) : "r"(instruction)
                     : "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc", "xmm0", "xmm1");
        printf("%s %s: fine\n", name, state);
        return;
    }
    long long address = got.si_addr ? (char *)got.si_addr - area : 0, cr2 = registers[REG_CR2] - (greg_t)area;
    if (got.si_signo != SIGSEGV && got.si_signo != SIGBUS)
        address = (char *)got.si_addr ? (char *)got.si_addr - (char *)instruction : 0;
    if (registers[REG_TRAPNO] != 14) cr2 = 0;
    // Of the instruction that stores to `scratch` RDI is in there, wherever that lies.
    const char *to = strncmp(name, "movs_from", 9) ? area : scratch;
    printf("%s %s: signal %d code %d key %d address %lld trapno %lld err %lld cr2 %lld rip %lld flags %#llx rdi %lld rcx %lld\n",
           name, state, got.si_signo, got.si_code, got.si_code == 4 && got.si_signo == SIGSEGV ? (int)got.si_pkey : 0, address,
           registers[REG_TRAPNO], registers[REG_ERR], cr2, registers[REG_RIP] - (greg_t)instruction,
           registers[REG_EFL], registers[REG_RDI] - (greg_t)to, registers[REG_RCX]);
}

static void *wait_for_ever(void *argument) { (void)argument; for (;;) pause(); }

int main(int argc, char **argv) {
    pthread_t other;
    (void)argv;
    if (argc > 1) pthread_create(&other, 0, wait_for_ever, 0);
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
    sigaltstack(&stack, 0);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    for (const int *signal = (const int[]){SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, 0}; *signal; signal++)
        sigaction(*signal, &action, 0);
    file = memfd_create("matrix", 0);
    if (ftruncate(file, PAGE)) return 2;
    key = pkey_alloc(0, 0);
    scratch = mmap(0, 4 * PAGE, ALL, ANONYMOUS, 0);
    memset(scratch, 7, 4 * PAGE);
    char *begin = mmap(0, 3 * PAGE, ALL, ANONYMOUS, 0);
    size_t count = sizeof states / sizeof *states;
    if (key < 0) count = FIRST_WITH_KEY;
    for (size_t s = 0; s < count; s++) {
        for (size_t i = 0; i < sizeof instructions / sizeof *instructions; i++) {
            // At the start, in the middle, across the end of the page before, across its own end.
            for (const int *offset = (const int[]){0, 64, -2, PAGE - 2, -1}; *offset != -1; offset++) {
                char name[100];
                sprintf(name, "%s+%d", instructions[i].name, *offset);
                // A key is seen where nothing was mapped before.
                if (s >= FIRST_WITH_KEY) begin = mmap(0, 3 * PAGE, PROT_NONE, ANONYMOUS, 0);
                if (begin == MAP_FAILED) return 2;
                area = begin + PAGE;
                mmap(begin, PAGE, ALL, MAP_FIXED | ANONYMOUS, 0);
                mmap(begin + 2 * PAGE, PAGE, ALL, MAP_FIXED | ANONYMOUS, 0);
                memset(begin, 1, PAGE);
                states[s].make();
                run(name, states[s].name, instructions[i].run, area + *offset);
                // What is left of a store across the edge.
                printf("  %d %d\n", begin[PAGE - 2], begin[PAGE - 1]);
            }
        }
    }
    writable();
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) run(others[i].name, "", others[i].run, area);
    return 0;
}
