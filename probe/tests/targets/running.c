/* What a thread may come to while its instructions are emulated one after the other: each function returns a number that
 * the program prints, and that says whether all went as it should. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t table[4096];
static double reals[64];
volatile uint64_t watched;

uint64_t leaf(uint64_t value) { return value * 6364136223846793005u + 1442695040888963407u; }

static uint64_t fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

/* Integer, floating point, strings, calls into the C library, memory that is written and read again. */
uint64_t compute(void) {
    uint64_t sum = 1;
    for (unsigned i = 0; i < 4096; i++)
        table[i] = sum = leaf(sum);
    for (unsigned i = 0; i < 64; i++)
        reals[i] = (double)(table[i] >> 11) / 3.0 + (i ? reals[i - 1] * 1e-3 : 0.0);
    char text[256] = "";
    for (unsigned i = 0; i < 8; i++) {
        char piece[64];
        snprintf(piece, sizeof piece, "%u %.17g %llx\n", i, reals[i], (unsigned long long)table[i]);
        if (strlen(text) + strlen(piece) < sizeof text)
            strcat(text, piece);
    }
    for (char *c = text; *c; c++)
        sum = sum * 31 + (unsigned char)*c;
    void *blocks[32];
    for (unsigned i = 0; i < 32; i++) {
        blocks[i] = malloc(1u << (i % 18));
        memset(blocks[i], (int)i, 1u << (i % 18));
    }
    for (unsigned i = 0; i < 32; i++) {
        sum += *(unsigned char *)blocks[i];
        free(blocks[i]);
    }
    return sum + fibonacci(16);
}

/* The kernel reads and writes what was stored just before. */
uint64_t calls(void) {
    int ends[2];
    char out[9000], in[9000];
    uint64_t sum = 0;
    if (pipe(ends))
        return 0;
    for (unsigned round = 0; round < 20; round++) {
        memset(out, (int)round, sizeof out);
        memset(in, 0, sizeof in);
        if (write(ends[1], out, sizeof out) != sizeof out || read(ends[0], in, sizeof in) != sizeof in)
            return 0;
        sum += memcmp(in, out, sizeof in) == 0;
    }
    void *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *(volatile char *)page = 1;
    munmap(page, 8192);
    pid_t child = fork();
    if (child == 0)
        _exit(3);
    int status = 0;
    waitpid(child, &status, 0);
    struct timespec nap = {0, 2000000};
    nanosleep(&nap, NULL);
    return sum * 100 + (uint64_t)WEXITSTATUS(status);
}

static volatile uint64_t ticks;
static volatile uint64_t broken;

static void tick(int signal, siginfo_t *info, void *context) {
    (void)context;
    ticks++;
    broken += signal != SIGALRM || info->si_code <= 0;
}

/* Signals come from a timer, and interrupt computing and a system call. */
uint64_t signals(void) {
    struct sigaction action = {.sa_sigaction = tick, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval timer = {{0, 2000}, {0, 2000}};
    setitimer(ITIMER_REAL, &timer, NULL);
    uint64_t sum = 0;
    while (ticks < 10)
        sum = leaf(sum);
    pid_t child = fork();
    if (child == 0) {
        struct timespec nap = {0, 20000000};
        nanosleep(&nap, NULL);
        _exit(7);
    }
    int status = 0;
    pid_t waited = waitpid(child, &status, 0);
    struct itimerval none = {0};
    setitimer(ITIMER_REAL, &none, NULL);
    return waited == child && WEXITSTATUS(status) == 7 && ticks >= 10 ? broken : 99;
}

static sigjmp_buf back;
static volatile uintptr_t fault_address;
static volatile int fault_code;

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    fault_address = (uintptr_t)info->si_addr;
    fault_code = info->si_code;
    siglongjmp(back, 1);
}

/* Faults are the program's own: no page, a page that cannot be written, a division by zero, a stack that grows. */
uint64_t faults(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGFPE, &action, NULL);
    volatile uint64_t good = 0;
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sigsetjmp(back, 1) == 0)
        *(volatile char *)8 = 1;
    else
        good += fault_address == 8 && fault_code == SEGV_MAPERR;
    if (sigsetjmp(back, 1) == 0)
        page[5] = 1;
    else
        good += fault_address == (uintptr_t)page + 5 && fault_code == SEGV_ACCERR;
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
    page[5] = 1;
    mprotect(page, 4096, PROT_NONE);
    if (sigsetjmp(back, 1) == 0)
        good += *(volatile char *)(page + 5) + 100;
    else
        good += fault_address == (uintptr_t)page + 5 && fault_code == SEGV_ACCERR;
    volatile int zero = 0, seven = 7;
    if (sigsetjmp(back, 1) == 0)
        good += seven / zero + 100;
    else
        good += fault_code == FPE_INTDIV;
    volatile char *deep = alloca(1 << 20);
    deep[0] = 1;
    return good + (uint64_t)deep[0];
}

/* Code is written and executed, again and again, once with the page unwritable meanwhile. */
uint64_t modify(void) {
    unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < 50; i++) {
        /* mov eax, i; ret */
        code[0] = 0xb8;
        memcpy(code + 1, &i, 4);
        code[5] = 0xc3;
        if (i == 25)
            mprotect(code, 4096, PROT_READ | PROT_EXEC);
        sum += ((uint32_t(*)(void))code)();
        if (i == 25)
            mprotect(code, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
    }
    /* One instruction changes the next but one: mov byte [rip + 1], 7; mov al, 0 becomes mov al, 7; ret */
    static const unsigned char self[] = {0xc6, 0x05, 0x01, 0, 0, 0, 7, 0xb0, 0, 0x0f, 0xb6, 0xc0, 0xc3};
    memcpy(code, self, sizeof self);
    sum += 1000 * ((uint32_t(*)(void))code)();
    /* The same by the kernel. */
    int ends[2];
    unsigned char three[] = {0xb8, 3, 0, 0, 0, 0xc3};
    if (pipe(ends) || write(ends[1], three, sizeof three) != sizeof three
        || read(ends[0], code, sizeof three) != sizeof three)
        return 0;
    return sum + 100000 * ((uint32_t(*)(void))code)();
}

static volatile uint64_t data, flag, counter;
enum { ROUNDS = 100 };

static uint64_t consume(void) {
    uint64_t good = 0;
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        while (flag != round)
            ;
        good += data == round * 3;
        __atomic_fetch_add(&counter, 1, __ATOMIC_SEQ_CST);
        while (counter % 2)
            ;
    }
    return good;
}

static uint64_t produce(void) {
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        data = round * 3;
        flag = round;
        while (counter < 2 * round - 1)
            ;
        __atomic_fetch_add(&counter, 1, __ATOMIC_SEQ_CST);
    }
    return ROUNDS;
}

uint64_t pass(uint64_t consumes) { return consumes ? consume() : produce(); }

static void *passes(void *consumes) { return (void *)pass((uint64_t)consumes); }

/* Two threads pass messages; both, or one, may run on. */
uint64_t threads(void) {
    pthread_t both[2];
    uint64_t sum = 0;
    for (uint64_t i = 0; i < 2; i++)
        pthread_create(&both[i], NULL, passes, (void *)i);
    for (uint64_t i = 0; i < 2; i++) {
        void *result;
        pthread_join(both[i], &result);
        sum += (uint64_t)result;
    }
    return sum;
}

/* It begins with an instruction that might access memory in one step, and does not; one that does is never executed. */
uint64_t change(volatile uint64_t *word);
__asm__(".globl change\n.type change, @function\nchange: xor %eax, %eax\njmp change_all\n"
        "lock xor %rdx, (%rdi)\n.size change, . - change");

/* Instructions that do, of each kind behind each other, with what they find and their flags. */
__attribute__((used)) uint64_t change_all(volatile uint64_t *word) {
    uint64_t sum = 0;
    for (uint64_t i = 1; i <= 20; i++) {
        uint64_t number = i * 3, expected = i, found = *word;
        unsigned char carry, zero, sign, equal;
        __asm__ volatile("xchg %0, %1" : "+r"(number), "+m"(*word));
        __asm__ volatile("lock incq %0; setz %1; sets %2" : "+m"(*word), "=q"(zero), "=q"(sign)::"cc");
        __asm__ volatile("lock btsq %2, %0; setc %1" : "+m"(*word), "=q"(carry) : "r"(i % 8) : "cc");
        sum = sum * 31 + number + zero + 2 * sign + 4 * carry + (found == number);
        /* The first fails, and says what is there; the second does not. */
        for (int again = 0; again < 2; again++) {
            __asm__ volatile("lock cmpxchgq %3, %1; sete %2"
                             : "+a"(expected), "+m"(*word), "=q"(equal) : "r"(~i) : "cc");
            sum = sum * 31 + expected + equal;
        }
        number = i;
        __asm__ volatile("lock xaddq %0, %1; setc %2" : "+r"(number), "+m"(*word), "=q"(carry)::"cc");
        __asm__ volatile("lock negq %0; sets %1" : "+m"(*word), "=q"(sign)::"cc");
        sum = sum * 31 + number + carry + 2 * sign + *word;
    }
    return sum;
}

static void *waits(void *pipe) {
    char byte;
    return read(*(int *)pipe, &byte, 1) == 1 ? pipe : NULL;
}

/* While there is another thread. */
uint64_t atomics(void) {
    static volatile uint64_t word;
    int ends[2];
    pthread_t other;
    if (pipe(ends) || pthread_create(&other, NULL, waits, ends))
        return 0;
    uint64_t sum = change(&word);
    if (write(ends[1], "", 1) != 1)
        return 0;
    pthread_join(other, NULL);
    return sum;
}

/* With memory that other processes may have mapped. */
uint64_t shared(void) {
    return change(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
}

uint64_t jump(void) {
    siglongjmp(back, 1);
}

/* A function that is left without a return. */
uint64_t leave(void) {
    if (sigsetjmp(back, 0) == 0)
        return jump();
    return 5;
}

uint64_t replace(void) {
    char *arguments[] = {"running", "compute", NULL};
    execv("/proc/self/exe", arguments);
    return 0;
}

/* How often the thread was switched while it called `leaf`: each stop is one. */
uint64_t switches(void) {
    struct rusage before, after;
    uint64_t sum = 0;
    watched = leaf(sum);
    getrusage(RUSAGE_THREAD, &before);
    for (unsigned i = 0; i < 500; i++)
        sum = leaf(sum);
    getrusage(RUSAGE_THREAD, &after);
    watched = sum;
    return (uint64_t)(after.ru_nvcsw - before.ru_nvcsw);
}

uint64_t endless(void) {
    uint64_t sum = 0;
    puts("ready");
    fflush(stdout);
    for (;;)
        watched = sum = leaf(sum);
}

uint64_t plain_loop(uint64_t rounds) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        table[i & 4095] = sum;
        sum = leaf(sum) ^ table[sum & 4095];
    }
    return sum;
}

/* Another thread takes the permission to write away from what this one stores to, and looks whether it stays as it is; this
 * one gets it back in its handler. No store is lost, made twice, or made without permission. */
static uint64_t *guarded;
static volatile uint64_t openings, over;

static void on_guarded(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    if ((uintptr_t)info->si_addr / 4096 != (uintptr_t)guarded / 4096)
        _exit(3);
    __atomic_fetch_add(&openings, 1, __ATOMIC_SEQ_CST);
    mprotect(guarded, 4096, PROT_READ | PROT_WRITE);
}

static void *guards(void *unused) {
    uint64_t before[8];
    (void)unused;
    while (!over) {
        uint64_t number = openings;
        mprotect(guarded, 4096, PROT_READ);
        memcpy(before, guarded, sizeof before);
        for (volatile unsigned i = 0; i < 2000; i++)
            ;
        int changed = memcmp(before, guarded, sizeof before);
        if (changed && openings == number)
            broken++;
        usleep(100);
    }
    return NULL;
}

uint64_t store_guarded(void) {
    double sum = 0;
    for (uint64_t i = 1; i <= 5000; i++) {
        volatile uint64_t *all = guarded;
        for (unsigned place = 0; place < 8; place++)
            all[place] = i * (place + 1);
        sum = sum + 0.5;
        for (unsigned place = 0; place < 8; place++)
            broken += all[place] != i * (place + 1);
    }
    return (uint64_t)sum;
}

uint64_t guard(void) {
    struct sigaction action = {.sa_sigaction = on_guarded, .sa_flags = SA_SIGINFO};
    pthread_t other;
    sigaction(SIGSEGV, &action, NULL);
    guarded = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(guarded, 0, 4096);
    pthread_create(&other, NULL, guards, NULL);
    uint64_t sum = store_guarded();
    over = 1;
    pthread_join(other, NULL);
    for (unsigned place = 0; place < 8; place++)
        sum = sum * 31 + guarded[place];
    return sum + 1000000 * broken;
}

int main(int count, char **arguments) {
    static const struct {
        const char *name;
        uint64_t (*function)(void);
    } all[] = {{"compute", compute}, {"calls", calls},     {"signals", signals}, {"faults", faults},
               {"modify", modify},   {"threads", threads}, {"leave", leave},     {"replace", replace},
               {"endless", endless}, {"switches", switches}, {"atomics", atomics}, {"shared", shared},
               {"guard", guard}};
    if (count == 3 && strcmp(arguments[1], "loop") == 0) {
        printf("loop %llu\n", (unsigned long long)plain_loop(strtoull(arguments[2], NULL, 0)));
        return 0;
    }
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (count == 2 && strcmp(arguments[1], all[i].name) == 0) {
            printf("%s %llu\n", all[i].name, (unsigned long long)all[i].function());
            return 0;
        }
    return 2;
}
