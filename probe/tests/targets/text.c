// Does to a function's text what the argument names, as JITs and programs that want huge pages do; then calls it and
// checks each result. Prints where the function is, if that is not where its symbol says.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, ROUNDS = 1000 };

// Alone on its page: returns the number that stands in its first instruction.
__asm__(".pushsection .answers, \"ax\"\n.balign 4096\n.globl answer\n.type answer, @function\n"
        "answer: mov $1, %eax\n ret\n.size answer, .-answer\n.balign 4096\n"
        // INT3s of the program itself, in code that begins as `answer` goes on.
        ".globl trap\n.type trap, @function\ntrap: int3\n ret\n.size trap, .-trap\n.balign 4096\n.popsection");
int answer(void);
void trap(void);

typedef int Function(void);

// Each permission at its time only. The first byte is not touched.
static void set_answer(char *code, int32_t value) {
    mprotect(code, PAGE, PROT_READ | PROT_WRITE);
    memcpy(code + 1, &value, sizeof value);
    mprotect(code, PAGE, PROT_READ | PROT_EXEC);
}

static void *map(void *where, int flags) {
    return mmap(where, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static void *copy_to(void *where, int flags) {
    char *code = map(where, flags);
    memcpy(code, (void *)answer, PAGE);
    mprotect(code, PAGE, PROT_READ | PROT_EXEC);
    return code;
}

static int patch(char *code) {
    int wrong = 0;
    for (int i = 0; i < ROUNDS; i++) {
        set_answer(code, i);
        wrong += ((Function *)code)() != i;
    }
    return wrong;
}

static int call(void *code) {
    int wrong = 0;
    for (int i = 0; i < 10; i++) wrong += ((Function *)code)() != 1;
    return wrong;
}

static void await_input(void) {
    char byte;
    puts("ready");
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {}
}

static int is_traced(void) {
    char line[128];
    int tracer = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status) && sscanf(line, "TracerPid: %d", &tracer) != 1) {}
    fclose(status);
    return tracer != 0;
}

static volatile int trapped;
static void on_trap(int signal) { trapped++; }

int main(int argc, char **argv) {
    char *how = argv[1], *text = (char *)answer;
    void *const jit = (void *)0x10000000;
    int is = 0;
#define HOW(name) (!is && (is = !strcmp(how, name)))
    if (HOW("jit")) {
        copy_to(jit, MAP_FIXED);
        await_input();
        int wrong = patch(jit);
        fprintf(stderr, "%d of %d wrong\n", wrong, ROUNDS);
        return wrong != 0;
    }
    if (HOW("written")) {
        set_answer(text, 2);
        await_input();
        return patch(text) != 0;
    }
    if (HOW("later")) {
        await_input();
        set_answer(text, 3);
        // Until it is found out.
        struct timespec second = {1, 0};
        while (nanosleep(&second, &second)) {}
        return patch(text) != 0;
    }
    if (HOW("overwritten")) {
        copy_to(jit, MAP_FIXED);
        await_input();
        mprotect(jit, PAGE, PROT_READ | PROT_WRITE);
        memcpy(jit, "\x31\xc0\xc3", 3);
        mprotect(jit, PAGE, PROT_READ | PROT_EXEC);
        for (;;) ((Function *)jit)();
    }
    if (HOW("discarded")) {
        await_input();
        madvise(text, PAGE, MADV_DONTNEED);
        for (;;) answer();
    }
    if (HOW("copied")) {
        await_input();
        void *copy = copy_to(0, 0);
        return call(text) || call(copy);
    }
    if (HOW("kept")) {
        await_input();
        void *copy = copy_to(0, 0);
        int wrong = call(text);
        while (is_traced()) usleep(1000);
        return wrong || call(copy);
    }
    if (HOW("moved")) {
        await_input();
        void *to = map(0, 0);
        if (call(text) || mremap(text, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to) return 1;
        return call(to);
    }
    if (HOW("replaced")) {
        await_input();
        void *copy = copy_to(0, 0);
        if (call(text) || mremap(copy, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, text) != text) return 1;
        if (call(text) || !dlopen("libm.so.6", RTLD_NOW)) return 2;
        return call(text);
    }
    if (HOW("own")) {
        signal(SIGTRAP, on_trap);
        await_input();
        for (int i = 0; i < 10; i++) trap();
        return call(text) || trapped != 10;
    }
    return 99;
}
