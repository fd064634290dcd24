// A counter that is incremented in a restartable sequence, which is begun again when the kernel has aborted it. With
// LISTED the sequence stands in the sections for debuggers. Prints how often it was aborted.
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/rseq.h>

#ifdef LISTED
#define SECTION "__rseq_cs, \"aw\""
#define LIST ".pushsection __rseq_cs_ptr_array, \"aw\"\n .quad description\n.popsection\n"
#else
#define SECTION ".data"
#define LIST ""
#endif

__asm__(".pushsection " SECTION "\n.balign 32\ndescription: .long 0, 0\n .quad start, end - start, aborted\n"
        ".popsection\n" LIST);

#define SYMBOL(name) ".globl " #name "\n.type " #name ", @function\n" #name ":"

__attribute__((noinline)) static int increment(struct rseq *area, long *counter) {
    int done;
    __asm__ volatile(" lea description(%%rip), %%rax\n"
                     SYMBOL(announce) " mov %%rax, 8(%[area])\n"
                     SYMBOL(start) " mov (%[counter]), %%rcx\n"
                     " inc %%rcx\n"
                     SYMBOL(commit) " mov %%rcx, (%[counter])\n"
                     SYMBOL(end) " mov $1, %[done]\n"
                     " movq $0, 8(%[area])\n jmp 1f\n"
                     ".long 0x53053053\n"
                     SYMBOL(aborted) " mov $0, %[done]\n"
                     "1:\n.size announce, 4\n.size start, 4\n.size commit, 4\n.size end, 4\n.size aborted, 4\n"
                     : [done] "=&r"(done)
                     : [area] "r"(area), [counter] "r"(counter)
                     : "rax", "rcx", "memory", "cc");
    return done;
}

int main(void) {
    if (!__rseq_size) {
        puts("no rseq");
        return 0;
    }
    struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    long counter = 0, aborts = 0;
    for (int i = 0; i < 10; i++) {
        while (!increment(area, &counter)) {
            if (++aborts > 1000) return 1;
        }
    }
    printf("%ld\n", aborts);
    return counter != 10;
}
