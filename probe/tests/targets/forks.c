// Makes so many children as the argument says, one after another: with a copy of the memory, on the stack of this process, and
// with its memory on another stack. Each calls `work` twice, and so does this process after each.
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noinline)) void work(void) {
    __asm__ volatile("");
}

static int child(void *unused) {
    work();
    work();
    _exit(7);
}

static int end_of(pid_t child) {
    int status;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) return 90;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

int main(int argc, char **argv) {
    static char stack[65536] __attribute__((aligned(16)));
    for (int i = 0; i < atoi(argv[1]); i++) {
        pid_t pid = i % 3 == 0 ? fork() : i % 3 == 1 ? vfork() : clone(child, stack + sizeof stack, CLONE_VM | SIGCHLD, 0);
        if (!pid) child(0);
        if (end_of(pid) != 7) return 1;
        work();
        work();
    }
    return 0;
}
