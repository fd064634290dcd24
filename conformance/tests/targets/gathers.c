// Gathers over the edge of a page that nobody may read: of which the first element faults, and of which a later one does.
#define _GNU_SOURCE
#include <immintrin.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

static sigjmp_buf back;

static void on_fault(int signal) {
    (void)signal;
    siglongjmp(back, 1);
}

__attribute__((target("avx2"))) static int faults(const int *start, int first, int later) {
    if (sigsetjmp(back, 1)) return 1;
    __m256i indices = _mm256_set_epi32(4, 6, later, 5, 3, 2, 1, first);
    volatile int low = _mm256_extract_epi32(_mm256_i32gather_epi32(start, indices, 4), 0);
    (void)low;
    return 0;
}

int main(void) {
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
    sigaction(SIGSEGV, &action, 0);
    char *pages = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + 4096, 4096, PROT_NONE)) return 2;
    const int *start = (const int *)pages;
    return !(faults(start, 0, 7) == 0 && faults(start, 1500, 7) == 1 && faults(start, 0, 1500) == 1);
}
