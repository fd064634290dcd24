/* Has the FAIL_NTHth call of FAIL_FUNCTION fail with FAIL_ERRNO, without any tool: for LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

/* What glibc exports of its allocator under other names, so that looking it up allocates nothing. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);

static int is_wanted(const char *function) {
    static long calls;
    const char *wanted = getenv("FAIL_FUNCTION"), *number = getenv("FAIL_NTH"), *error = getenv("FAIL_ERRNO");
    if (!wanted || !number || !error || strcmp(wanted, function) || ++calls != atol(number)) return 0;
    errno = strcmp(error, "ENOSPC") ? strcmp(error, "EIO") ? ENOMEM : EIO : ENOSPC;
    return 1;
}

void *malloc(size_t size) { return is_wanted("malloc") ? 0 : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return is_wanted("calloc") ? 0 : __libc_calloc(count, size); }

void *realloc(void *memory, size_t size) {
    if (is_wanted("realloc")) return 0;
    /* As glibc has it, which calls its own malloc for that. */
    return memory ? __libc_realloc(memory, size) : malloc(size);
}

ssize_t write(int file, const void *from, size_t length) {
    static ssize_t (*next)(int, const void *, size_t);
    if (!next) next = dlsym(RTLD_NEXT, "write");
    return is_wanted("write") ? -1 : next(file, from, length);
}

ssize_t pwrite64(int file, const void *from, size_t length, off64_t offset) {
    static ssize_t (*next)(int, const void *, size_t, off64_t);
    if (!next) next = dlsym(RTLD_NEXT, "pwrite64");
    return is_wanted("pwrite64") ? -1 : next(file, from, length, offset);
}
