// One process makes another in the way that the argument names; both call `work`.
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int worked;

__attribute__((noinline)) void work(void) {
    worked++;
}

static int end_of(pid_t child) {
    int status;
    while (waitpid(child, &status, __WALL) < 0) {
        if (errno != EINTR) return 90;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

static char stack[65536];

static int child(void *unused) {
    work();
    work();
    _exit(worked == 3 ? 7 : 8);
}

int main(int argc, char **argv) {
    char *how = argc > 1 ? argv[1] : "";
    work();
    if (!strcmp(how, "fork")) {
        pid_t pid = fork();
        if (pid == 0) child(0);
        if (end_of(pid) != 7) return 1;
    } else if (!strcmp(how, "vfork")) {
        pid_t pid = vfork();
        if (pid == 0) {
            work();
            execl(argv[0], argv[0], "exec'd", (char *)0);
            _exit(99);
        }
        if (end_of(pid) != 5) return 2;
        if (worked != 2) return 3;
    } else if (!strcmp(how, "clone_vm")) {
        pid_t pid = clone(child, stack + sizeof stack, CLONE_VM | SIGCHLD, 0);
        if (end_of(pid) != 7) return 4;
        if (worked != 3) return 5;
    } else if (!strcmp(how, "exec")) {
        execl(argv[0], argv[0], "exec'd", (char *)0);
        return 99;
    } else if (!strcmp(how, "exec'd")) {
        return worked == 1 ? 5 : 6;
    }
    work();
    return 0;
}
