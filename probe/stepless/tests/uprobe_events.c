// Functions with arguments of all kinds, for lines of uprobe_events. What it does is the same in each run.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct data {
    uint8_t u8;             // 0
    int8_t s8;              // 1
    uint16_t u16;           // 2
    int16_t s16;            // 4
    uint32_t u32;           // 8
    int32_t s32;            // 12
    uint64_t u64;           // 16
    int64_t s64;            // 24
    uint32_t bits;          // 32
    char letters[8];        // 36
    const char *name;       // 48
    struct data *next;      // 56
    uint16_t shorts[4];     // 64
    const char *names[3];   // 72
    int64_t longs[64];      // 96
};

static const char first[] = "first", second[] = "the \"second\"", third[] = "";
__attribute__((section(".rodata.told"), used)) static const char told[] = "told";
struct data inner = {7, -7, 77, -77, 777, -777, 7777, -7777, 0x87654321, "inner", second, 0, {1}, {first, second, third}, {1}};
struct data outer = {200, -100, 60000, -30000, 4000000000u, -2000000000, 1ull << 63, -5, 0xfedcba98, "letters", first,
    &inner, {1, 2, 3, 65535}, {first, second, third}, {-1, 2, -3, 4}};
uint32_t global = 0xdeadbeef;

__attribute__((noinline)) long entry(long a, unsigned b, const char *text, struct data *data, long e, long f, long seventh) {
    asm volatile("" ::: "memory");
    return a + b + text[0] + data->u8 + e + f + seventh;
}
__attribute__((noinline)) long number(long a) {
    asm volatile("" ::: "memory");
    return -a;
}
__attribute__((noinline)) const char *string(int i) {
    asm volatile("" ::: "memory");
    return i % 2 ? first : second;
}

int main(int count, char **arguments) {
    if (count == 2) {
        printf("%p %p %p %p %p\n", (void *)&global, (void *)told, (void *)first, (void *)&outer, (void *)&inner);
        return 0;
    }
    for (long i = 0; i < 4; i++) {
        entry(i ? 0x1122334455667788 * i : 65, 0x80000000u + i, i % 2 ? first : second, i % 2 ? &inner : &outer, 1, -i, 42 + i);
        number(i + 1);
        string(i);
    }
    return 0;
}
