// A child that shares the memory of this process, made as the argument says, says "ready", waits for the end
// of standard input, calls `work` three times and executes this program again. Then the parent calls `work`.
// With "loop", children of all kinds are made over and over until standard input ends.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char *program;
static volatile int worked, failed;

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

static int child(void *unused) {
    char byte;
    if (write(1, "ready\n", 6) != 6) _exit(91);
    while (read(0, &byte, 1) > 0 || errno == EINTR) {}
    for (int i = 0; i < 3; i++) work();
    execl(program, program, "exec'd", (char *)0);
    _exit(92);
}

static int grandchild(void *unused) {
    pid_t pid = vfork();
    if (pid == 0) child(0);
    _exit(end_of(pid));
}

static void *in_thread(void *unused) {
    pid_t pid = vfork();
    if (pid == 0) child(0);
    failed |= end_of(pid) != 5;
    return 0;
}

static int ended(void) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    return poll(&input, 1, 0) != 0;
}

static void make_children(void) {
    char *arguments[] = {program, "exec'd", 0};
    while (!ended()) {
        work();
        pid_t pid = vfork();
        if (pid == 0) {
            work();
            execv(program, arguments);
            _exit(93);
        }
        int status = end_of(pid);
        if (status != 5) failed = 1, fprintf(stderr, "vfork: %d\n", status);
        if (posix_spawn(&pid, program, 0, 0, arguments, environ)) failed = 1;
        status = end_of(pid);
        if (status != 5) failed = 1, fprintf(stderr, "posix_spawn: %d\n", status);
        pid = fork();
        if (pid == 0) {
            for (int i = 0; i < 10; i++) work();
            _exit(6);
        }
        status = end_of(pid);
        if (status != 6) failed = 1, fprintf(stderr, "fork: %d\n", status);
    }
}

int main(int argc, char **argv) {
    static char stack[65536];
    char *how = argc > 1 ? argv[1] : "";
    program = argv[0];
    if (!strcmp(how, "vfork")) {
        pid_t pid = vfork();
        if (pid == 0) child(0);
        failed = end_of(pid) != 5;
    } else if (!strcmp(how, "clone_vm")) {
        failed = end_of(clone(child, stack + sizeof stack, CLONE_VM | SIGCHLD, 0)) != 5;
    } else if (!strcmp(how, "nested")) {
        failed = end_of(clone(grandchild, stack + sizeof stack, CLONE_VM | SIGCHLD, 0)) != 5;
    } else if (!strcmp(how, "thread")) {
        pthread_t thread;
        pthread_create(&thread, 0, in_thread, 0);
        pthread_join(thread, 0);
    } else if (!strcmp(how, "loop")) {
        if (write(1, "ready\n", 6) != 6) return 1;
        make_children();
        return failed;
    } else if (!strcmp(how, "exec'd")) {
        return 5;
    }
    work();
    return failed || worked != 4;
}
