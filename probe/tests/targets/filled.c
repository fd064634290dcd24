// A thread has the kernel write to a page that another thread fills when it has called `toggle`. Ends with 0 if what is
// written there is right, with 77 if the system does not let this be tried.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, ROUNDS = 2, SKIPPED = 77 };

// RFLAGS.ID, which only the thread itself can change.
long toggle(void);
asm(".text\n"
    ".type toggle,@function\ntoggle: pushf\nmov (%rsp),%rcx\nxorl $0x200000,(%rsp)\n"
    "popf\n"
    "pushf\npop %rax\nxor %rcx,%rax\n"
    "push %rcx\npopf\nret\n.size toggle,.-toggle\n");

static char *page;
static int ends[2];

static void *reads(void *unused) {
    return (void *)(long)read(ends[0], page, 1);
}

int main(void) {
    struct uffdio_api api = {.api = UFFD_API};
    struct uffd_msg message;
    int faults = syscall(SYS_userfaultfd, O_CLOEXEC);
    if (faults < 0 || ioctl(faults, UFFDIO_API, &api) || pipe(ends)) return SKIPPED;
    for (int i = 0; i < ROUNDS; i++) {
        pthread_t thread;
        void *count;
        page = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        struct uffdio_register wanted = {{(uintptr_t)page, PAGE}, UFFDIO_REGISTER_MODE_MISSING};
        struct uffdio_zeropage fill = {.range = {(uintptr_t)page, PAGE}};
        if (ioctl(faults, UFFDIO_REGISTER, &wanted)) return SKIPPED;
        if (write(ends[1], "x", 1) != 1 || pthread_create(&thread, 0, reads, 0)) return 1;
        if (read(faults, &message, sizeof message) != sizeof message) return 2;
        if (toggle() != 0x200000) return 3;
        if (ioctl(faults, UFFDIO_ZEROPAGE, &fill)) return 4;
        pthread_join(thread, &count);
        if ((long)count != 1 || *page != 'x') return 5;
    }
    return 0;
}
