#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct { int x, y; } point;
struct small { char a; short b; float c; };
struct pair { double d; long n; };
struct large { long a[5]; const char *name; };
struct bits { unsigned a : 3; int b : 5; unsigned c : 10; long long d : 40; };
enum color { RED, GREEN = 5, BLUE = -3 };
enum flags { ONE = 1, TWO = 2, FOUR = 4 };
struct list { struct list *next; int value; union { int as_int; float as_float; }; };
typedef int (*callback)(int, const char *);
typedef float four __attribute__((vector_size(16)));

int counter = 42;
static const char *message = "hello";
_Thread_local int per_thread = 7;
static volatile long sink;

#define KEEP(value) __asm__ volatile("" : : "r,m"(value))
#define NOINLINE __attribute__((noinline, noclone))

NOINLINE int integers(char a, signed char b, unsigned char c, short d, unsigned short e, int f, unsigned g, long h,
                      unsigned long i, bool j) {
    long sum = a + b + c + d + e + f + (long)g + h + (long)i + j;
    sink += sum; /* stop integers */
    return (int)sum;
}

NOINLINE double floats(float a, double b, long double c, _Complex double d, float e, double f) {
    double total = a + b + (double)c + __real__ d + e * f;
    sink += (long)total; /* stop floats */
    return total;
}

NOINLINE long structures(point a, struct small b, struct pair c, struct large d, struct bits e, __int128 f) {
    long total = a.x + b.b + c.n + d.a[2] + e.b + (long)f;
    sink += total; /* stop structures */
    return total;
}

NOINLINE long pointers(const point *p, struct list *list, callback call, char **names, enum color color, enum flags flags) {
    static int calls = 3;
    int numbers[3] = {p->x, p->y, 9};
    long total = list->next->value + call(1, names[0]) + color + flags + numbers[1];
    KEEP(numbers[0]);
    calls++;
    sink += total + calls; /* stop pointers */
    return total;
}

NOINLINE long vectors(four a, int n, four b) {
    four sum = a + b;
    sink += (long)sum[n & 3]; /* stop vectors */
    return (long)sum[0];
}

static inline __attribute__((always_inline)) int scaled(int factor, const point *p) {
    int product = factor * p->x;
    __asm__ volatile("" : "+r"(product));
    sink += product; /* stop scaled */
    return product + p->y;
}

NOINLINE int blocks(int n) {
    int result = 0;
    point here = {n, n + 1};
    for (int i = 0; i < n; i++) {
        long n = i * 2L;
        result += scaled(i + 3, &here);
        __asm__ volatile("" : "+r"(n));
        sink += n; /* stop blocks */
    }
    int rest = result + per_thread;
    sink += rest; /* stop rest */
    return rest;
}

NOINLINE int many(int a, int b, int c, int d, int e, int f, int g, long h, struct pair i, char j) {
    int sum = a + b + c + d + e + f + g + (int)h + (int)i.d + j;
    sink += sum; /* stop many */
    return sum;
}

NOINLINE struct large returned(int n, double x) {
    struct large result = {{n, n + 1, n + 2, n + 3, n + 4}, message};
    result.a[4] += (long)x;
    sink += result.a[4]; /* stop returned */
    return result;
}

NOINLINE static int called(int n, const char *name) {
    sink += name[0]; /* stop called */
    return n + name[1];
}

NOINLINE int rows(int n, int m) {
    int row[n];
    short grid[n][m];
    for (int i = 0; i < n; i++) {
        row[i] = i * 7 + m;
        for (int j = 0; j < m; j++) grid[i][j] = (short)(i * 10 - j);
    }
    KEEP(row[0]);
    KEEP(grid[0][0]);
    sink += row[n - 1] + grid[n - 1][m - 1]; /* stop rows */
    return row[1] + grid[1][0];
}

NOINLINE long outside(long value) {
    __asm__ volatile("" : "+r"(value) : : "memory");
    return value + 1;
}

/* What it is called with, only its caller knows at the stop. */
NOINLINE long forgotten(long a, double d, const point *p, int n, float f) {
    double half = d * 0.5;
    float sum = f + 2.5f;
    long scaled = a * 3 + n;
    long total = outside(a + n + p->x);
    sink += total; /* stop forgotten */
    return outside(total) + 1;
}

/* Passes on what it is called with itself. */
NOINLINE long passing(long a, int n) {
    point here = {n, 5};
    KEEP(here.x);
    long total = forgotten(a, 6.5, &here, n, 1.25f);
    sink += total; /* stop passing */
    return outside(total) + here.y;
}

int main(int argc, char **argv) {
    char *names[] = {"one", "two", NULL};
    point p = {argc + 10, -20};
    struct list tail = {NULL, 77, {.as_float = 1.5f}}, head = {&tail, 66, {.as_int = 5}};
    long total = integers('a', -2, 250, -300, 60000, argc, 4000000000u, -5, 1ul << 63, true);
    total += (long)floats(1.25f, -2.5, 3.75L, 1.0 + 2.0i, -0.0f, 1e100);
    struct small s = {'s', -7, 0.5f};
    struct pair q = {2.75, 1234567};
    struct large big = {{1, 2, 3, 4, 5}, "big"};
    struct bits bits = {5, -9, 777, -123456789};
    total += structures(p, s, q, big, bits, (__int128)1 << 70);
    total += pointers(&p, &head, called, names, BLUE, ONE | FOUR);
    total += vectors((four){1, 2, 3, 4}, 2, (four){10, 20, 30, 40});
    total += blocks(3);
    total += many(1, 2, 3, 4, 5, 6, 7, 8, q, 'j');
    total += returned(100, 3.5).a[4];
    total += rows(argc + 2, 4);
    long kept = argc + 40;
    total += passing(kept, 9);
    total += passing(kept + 1, argc) + kept;
    printf("%ld %d %p\n", total & 1, counter, (void *)argv);
    return 0;
}
