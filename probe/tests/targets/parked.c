// With the first byte of standard input a thread makes what the argument says, a child with a copy of the memory, one that
// shares it, or a thread, which calls `work`. The system call is held up within the kernel, behind where memory is copied and
// before there is a child, by a page that this process fills itself: "parked" is printed then. It goes on with the second
// byte. Ends when standard input does, with 0 if what was made has done well, with 77 if the system does not let this be tried.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, CALLS = 3, WELL = 7, SKIPPED = 77 };

static char *how;
static void *held;
static volatile int done;

__attribute__((noinline)) void work(void) {
    __asm__ volatile("");
}

static int is(const char *wanted) {
    return !strcmp(how, wanted);
}

static int child(void *unused) {
    for (int i = 0; i < CALLS; i++) work();
    if (!is("thread")) _exit(WELL);
    done = 1;
    // Of this thread alone.
    syscall(SYS_exit, 0);
    return 0;
}

static void *make_child(void *unused) {
    static char stack[65536] __attribute__((aligned(16)));
    int of_thread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
    int flags = is("thread") ? of_thread : is("share") ? CLONE_VM | SIGCHLD : SIGCHLD;
    int status = 0;
    // The kernel stores the descriptor of the child in the page that is held up.
    pid_t pid = clone(child, stack + sizeof stack, flags | CLONE_PIDFD, 0, held);
    // Which older kernels do not let threads have.
    if (pid < 0 && errno == EINVAL) exit(SKIPPED);
    while (pid > 0 && is("thread") && !done) sched_yield();
    if (is("thread") && done) return 0;
    int well = pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == WELL;
    if (!well) fprintf(stderr, "the child: %d, %#x\n", pid, status);
    return well ? 0 : held;
}

int main(int argc, char **argv) {
    struct uffdio_api api = {.api = UFFD_API};
    struct uffd_msg message;
    pthread_t thread;
    void *wrong;
    char byte;
    how = argc > 1 ? argv[1] : "copy";
    held = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register page = {{(uintptr_t)held, PAGE}, UFFDIO_REGISTER_MODE_MISSING};
    puts("ready");
    fflush(stdout);
    if (read(0, &byte, 1) != 1) return 0;
    int faults = syscall(SYS_userfaultfd, O_CLOEXEC);
    if (faults < 0 || ioctl(faults, UFFDIO_API, &api) || ioctl(faults, UFFDIO_REGISTER, &page)) return SKIPPED;
    pthread_create(&thread, 0, make_child, 0);
    if (read(faults, &message, sizeof message) != sizeof message) return 1;
    puts("parked");
    fflush(stdout);
    if (read(0, &byte, 1) != 1) return 1;
    struct uffdio_zeropage fill = {.range = {(uintptr_t)held, PAGE}};
    if (ioctl(faults, UFFDIO_ZEROPAGE, &fill)) return 1;
    pthread_join(thread, &wrong);
    while (read(0, &byte, 1) > 0) {}
    return wrong != 0;
}
