// Stores of which the mask takes the first element alone, over memory that is stored to right after.
#include <immintrin.h>

enum { WORDS = 1 << 12 };

static int words[WORDS + 8];

__attribute__((target("avx2"))) int main(void) {
    __m256i first = _mm256_set_epi32(0, 0, 0, 0, 0, 0, 0, -1);
    for (int at = 0; at < WORDS; at += 4) {
        _mm256_maskstore_epi32(words + at, first, _mm256_set1_epi32(at));
        for (int next = 1; next < 4; next++) *(volatile int *)(words + at + next) = at + next;
    }
    int wrong = 0;
    for (int at = 0; at < WORDS; at++) wrong += words[at] != at;
    return wrong != 0;
}
