// The C library's string functions over random buffers, each held against a loop. The library chooses the widest
// instructions that the processor has; all calls go through pointers, so that the compiler puts nothing in their place.
//
// Takes the number of rounds. Exits with 1 at the first wrong answer, after naming the function.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <wchar.h>

enum { PAGE = 4096, PAGES = 4, SIZE = PAGE * PAGES, LONGEST = SIZE / 2 };

static uint64_t state = 0x9e3779b97f4a7c15;

static uint64_t draw(uint64_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % below;
}

// Most strings are short.
static size_t length(void) {
    switch (draw(8)) {
    case 0: return draw(LONGEST - 8);
    case 1: case 2: return draw(600);
    case 3: case 4: return draw(130);
    default: return draw(40);
    }
}

#define FUNCTIONS(F)                                                                                                   \
    F(void *, memcpy, (void *, const void *, size_t))                                                                  \
    F(void *, mempcpy, (void *, const void *, size_t))                                                                 \
    F(void *, memmove, (void *, const void *, size_t))                                                                 \
    F(void *, memset, (void *, int, size_t))                                                                           \
    F(int, memcmp, (const void *, const void *, size_t))                                                               \
    F(void *, memchr, (const void *, int, size_t))                                                                     \
    F(void *, memrchr, (const void *, int, size_t))                                                                    \
    F(void *, rawmemchr, (const void *, int))                                                                          \
    F(void *, memmem, (const void *, size_t, const void *, size_t))                                                    \
    F(size_t, strlen, (const char *))                                                                                  \
    F(size_t, strnlen, (const char *, size_t))                                                                         \
    F(char *, strchr, (const char *, int))                                                                             \
    F(char *, strchrnul, (const char *, int))                                                                          \
    F(char *, strrchr, (const char *, int))                                                                            \
    F(int, strcmp, (const char *, const char *))                                                                       \
    F(int, strncmp, (const char *, const char *, size_t))                                                              \
    F(int, strcasecmp, (const char *, const char *))                                                                   \
    F(int, strncasecmp, (const char *, const char *, size_t))                                                          \
    F(char *, strcpy, (char *, const char *))                                                                          \
    F(char *, stpcpy, (char *, const char *))                                                                          \
    F(char *, strncpy, (char *, const char *, size_t))                                                                 \
    F(char *, stpncpy, (char *, const char *, size_t))                                                                 \
    F(char *, strcat, (char *, const char *))                                                                          \
    F(char *, strncat, (char *, const char *, size_t))                                                                 \
    F(size_t, strcspn, (const char *, const char *))                                                                   \
    F(size_t, strspn, (const char *, const char *))                                                                    \
    F(char *, strpbrk, (const char *, const char *))                                                                   \
    F(char *, strstr, (const char *, const char *))                                                                    \
    F(size_t, wcslen, (const wchar_t *))                                                                               \
    F(size_t, wcsnlen, (const wchar_t *, size_t))                                                                      \
    F(wchar_t *, wcschr, (const wchar_t *, wchar_t))                                                                   \
    F(wchar_t *, wcsrchr, (const wchar_t *, wchar_t))                                                                  \
    F(int, wcscmp, (const wchar_t *, const wchar_t *))                                                                 \
    F(int, wcsncmp, (const wchar_t *, const wchar_t *, size_t))                                                        \
    F(wchar_t *, wmemset, (wchar_t *, wchar_t, size_t))                                                                \
    F(wchar_t *, wmemchr, (const wchar_t *, wchar_t, size_t))                                                          \
    F(int, wmemcmp, (const wchar_t *, const wchar_t *, size_t))

#define POINTER(result, name, parameters) static result (*volatile c_##name) parameters = name;
FUNCTIONS(POINTER)

static void expect(int holds, const char *what) {
    if (!holds) {
        printf("%s\n", what);
        exit(1);
    }
}

static int sign(int value) { return (value > 0) - (value < 0); }

// A buffer with nothing readable before and after it.
struct buffer {
    unsigned char *start;
};

static struct buffer map(void) {
    unsigned char *all = mmap(NULL, SIZE + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED || mprotect(all + PAGE, SIZE, PROT_READ | PROT_WRITE) != 0) {
        perror("mmap");
        exit(2);
    }
    return (struct buffer){all + PAGE};
}

// Where so many bytes begin: anywhere, at the buffer's start, or so that they end with it.
static unsigned char *place(struct buffer *buffer, size_t bytes, size_t alignment) {
    size_t room = SIZE - bytes;
    size_t at = draw(3) == 0 ? room : draw(6) == 0 ? 0 : draw(room + 1);
    return buffer->start + at / alignment * alignment;
}

// Few letters make many matches and long common starts.
static unsigned char letter(int few) { return few ? "abAB"[draw(4)] : 1 + draw(255); }

static char *string(struct buffer *buffer, size_t letters, int few) {
    char *text = (char *)place(buffer, letters + 1, 1);
    for (size_t i = 0; i < letters; i++) text[i] = letter(few);
    text[letters] = 0;
    return text;
}

static int lower(int c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

// The difference at the first place where two strings differ, of which at most `most` letters count.
static int compared(const char *a, const char *b, size_t most, int folded) {
    for (size_t i = 0; i < most; i++) {
        int x = (unsigned char)a[i], y = (unsigned char)b[i];
        if (folded) x = lower(x), y = lower(y);
        if (x != y) return x < y ? -1 : 1;
        if (x == 0) return 0;
    }
    return 0;
}

static int differs(const unsigned char *a, const unsigned char *b, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
    return 0;
}

static unsigned char before[SIZE];

static void copies(struct buffer *one, struct buffer *two) {
    size_t n = length();
    unsigned char *from = place(one, n, 1), *to = place(two, n, 1);
    for (size_t i = 0; i < n; i++) from[i] = draw(256);
    expect(c_memcpy(to, from, n) == to && !differs(to, from, n), "memcpy");
    // Overlapping, in both directions.
    for (size_t i = 0; i < n; i++) before[i] = from[i];
    unsigned char *beside = place(one, n, 1);
    expect(c_memmove(beside, from, n) == beside && !differs(beside, before, n), "memmove");
    int c = draw(256);
    for (size_t i = 0; i < SIZE; i++) before[i] = two->start[i];
    expect(c_memset(to, c, n) == to, "memset");
    for (size_t i = 0; i < SIZE; i++) {
        unsigned char *at = two->start + i;
        expect(*at == (at >= to && at < to + n ? (unsigned char)c : before[i]), "memset's bytes");
    }
    from = place(one, n, 1);
    expect(c_mempcpy(to, from, n) == to + n && !differs(to, from, n), "mempcpy");
    expect(c_memcmp(to, from, n) == 0, "memcmp of equals");
    if (n) {
        to[draw(n)] ^= 1 << draw(8);
        expect(sign(c_memcmp(to, from, n)) == differs(to, from, n), "memcmp");
    }
}

static void searches(struct buffer *one, struct buffer *two) {
    size_t n = length();
    int few = draw(2), c = draw(10) ? letter(few) : 0;
    char *text = string(one, n, few);
    if (n && draw(2)) text[draw(n)] = c ? c : 1;
    char *first = NULL, *last = NULL;
    for (size_t i = 0; i <= n; i++)
        if (text[i] == (char)c) last = text + i, first = first ? first : text + i;
    expect(c_strlen(text) == n, "strlen");
    size_t most = draw(2 * n + 2);
    expect(c_strnlen(text, most) == (most < n ? most : n), "strnlen");
    expect(c_strchr(text, c) == first, "strchr");
    expect(c_strchrnul(text, c) == (first ? first : text + n), "strchrnul");
    expect(c_strrchr(text, c) == last, "strrchr");
    expect(c_memchr(text, c, n + 1) == first, "memchr");
    expect(c_memrchr(text, c, n + 1) == last, "memrchr");
    expect(c_rawmemchr(text, 0) == text + n, "rawmemchr");
    size_t letters = draw(few ? 6 : 20);
    char *set = string(two, letters, few);
    size_t span = 0, complement = 0;
    while (text[span] && c_strchr(set, text[span])) span++;
    while (text[complement] && !c_strchr(set, text[complement])) complement++;
    expect(c_strspn(text, set) == span, "strspn");
    expect(c_strcspn(text, set) == complement, "strcspn");
    expect(c_strpbrk(text, set) == (complement == n ? NULL : text + complement), "strpbrk");
    char *found = NULL;
    for (size_t i = 0; i + letters <= n && !found; i++)
        if (!differs((unsigned char *)text + i, (unsigned char *)set, letters)) found = text + i;
    expect(c_strstr(text, set) == found, "strstr");
    expect(c_memmem(text, n, set, letters) == found, "memmem");
}

static void comparisons(struct buffer *one, struct buffer *two) {
    size_t n = length();
    int few = draw(2);
    char *a = string(one, n, few), *b = (char *)place(two, n + 1, 1);
    for (size_t i = 0; i <= n; i++) b[i] = a[i];
    if (n && draw(4)) b[draw(n)] = draw(5) ? letter(few) : 0;
    if (draw(3) == 0)
        for (size_t i = 0; i < n; i++)
            if (a[i] >= 'a' && a[i] <= 'z') a[i] -= 32;
    size_t most = draw(n + 3);
    expect(sign(c_strcmp(a, b)) == compared(a, b, n + 1, 0), "strcmp");
    expect(sign(c_strncmp(a, b, most)) == compared(a, b, most, 0), "strncmp");
    expect(sign(c_strcasecmp(a, b)) == compared(a, b, n + 1, 1), "strcasecmp");
    expect(sign(c_strncasecmp(a, b, most)) == compared(a, b, most, 1), "strncasecmp");
}

static void string_copies(struct buffer *one, struct buffer *two) {
    size_t n = length(), most = draw(2) ? draw(n + 40) : n;
    char *from = string(one, n, 0), *to = (char *)place(two, n + 1, 1);
    expect(c_strcpy(to, from) == to && !compared(to, from, n + 1, 0), "strcpy");
    to = (char *)place(two, n + 1, 1);
    expect(c_stpcpy(to, from) == to + n && !compared(to, from, n + 1, 0), "stpcpy");
    size_t copied = n < most ? n : most;
    for (int stp = 0; stp < 2; stp++) {
        to = (char *)place(two, most, 1);
        char *end = stp ? c_stpncpy(to, from, most) : c_strncpy(to, from, most) + copied;
        expect(end == to + copied && !differs((unsigned char *)to, (unsigned char *)from, copied), "strncpy");
        for (size_t i = copied; i < most; i++) expect(to[i] == 0, "strncpy's zeros");
    }
    size_t other = draw(100);
    for (int limited = 0; limited < 2; limited++) {
        size_t appended = limited ? copied : n;
        to = (char *)place(two, other + appended + 1, 1);
        for (size_t i = 0; i < other; i++) to[i] = before[i] = letter(0);
        to[other] = 0;
        expect((limited ? c_strncat(to, from, most) : c_strcat(to, from)) == to, "strcat");
        expect(!differs((unsigned char *)to, before, other), "strcat's start");
        expect(!differs((unsigned char *)to + other, (unsigned char *)from, appended), "strcat's end");
        expect(to[other + appended] == 0, "strcat's zero");
    }
}

static void wide(struct buffer *one, struct buffer *two) {
    size_t n = length() / sizeof(wchar_t);
    wchar_t *a = (wchar_t *)place(one, (n + 1) * sizeof(wchar_t), sizeof(wchar_t));
    wchar_t *b = (wchar_t *)place(two, (n + 1) * sizeof(wchar_t), sizeof(wchar_t));
    wchar_t c = 1 + draw(5) * 0x10001, *first = NULL, *last = NULL;
    for (size_t i = 0; i < n; i++) {
        a[i] = b[i] = 1 + draw(12) * 0x10001;
        if (a[i] == c) last = a + i, first = first ? first : a + i;
    }
    a[n] = b[n] = 0;
    size_t most = draw(2 * n + 2);
    expect(c_wcslen(a) == n, "wcslen");
    expect(c_wcsnlen(a, most) == (most < n ? most : n), "wcsnlen");
    expect(c_wcschr(a, c) == first, "wcschr");
    expect(c_wcsrchr(a, c) == last, "wcsrchr");
    expect(c_wmemchr(a, c, n) == first, "wmemchr");
    size_t at = n ? draw(n) : 0;
    if (n && draw(3)) b[at] = 1 + draw(12) * 0x10001;
    int order = (a[at] > b[at]) - (a[at] < b[at]);
    expect(sign(c_wcscmp(a, b)) == order, "wcscmp");
    expect(sign(c_wcsncmp(a, b, most)) == (most > at ? order : 0), "wcsncmp");
    expect(sign(c_wmemcmp(a, b, n)) == order, "wmemcmp");
    expect(c_wmemset(b, c, n) == b && b[n] == 0, "wmemset");
    for (size_t i = 0; i < n; i++) expect(b[i] == c, "wmemset's letters");
}

int main(int argc, char **argv) {
    struct buffer one = map(), two = map();
    for (long round = argc > 1 ? atol(argv[1]) : 1; round > 0; round--) {
        copies(&one, &two);
        searches(&one, &two);
        comparisons(&one, &two);
        string_copies(&one, &two);
        wide(&one, &two);
    }
    return 0;
}
