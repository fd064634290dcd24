/* Enters the kernel from instructions of its own, and prints what came of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

long enter(long number, long a, long b, long c, long d);
long enter_clone(long flags, void *stack, long (*function)(void));
void restorer(void);
long enter_80(long number);
extern char the_syscall[];
unsigned long rcx_after, r11_after;
__asm__(".globl enter, enter_clone, restorer, enter_80, the_syscall\n"
        ".type enter, @function\n"
        "enter:\n"
        "  pop %r9\n" /* A vfork child shares the stack. */
        "  mov %rdi, %rax\n"
        "  mov %rsi, %rdi\n"
        "  mov %rdx, %rsi\n"
        "  mov %rcx, %rdx\n"
        "  mov %r8, %r10\n"
        "  stc\n"
        "the_syscall:\n"
        "  syscall\n"
        "  mov %rcx, rcx_after(%rip)\n"
        "  mov %r11, r11_after(%rip)\n"
        "  push %r9\n"
        "  ret\n"
        ".size enter, . - enter\n"
        ".type enter_clone, @function\n"
        "enter_clone:\n"
        "  mov %rdx, %r9\n"
        "  xor %edx, %edx\n"
        "  mov $56, %eax\n"
        "  syscall\n"
        "  test %eax, %eax\n"
        "  jnz 1f\n"
        "  call *%r9\n"
        "  mov %eax, %edi\n"
        "  mov $60, %eax\n"
        "  syscall\n"
        "1: ret\n"
        ".size enter_clone, . - enter_clone\n"
        ".type restorer, @function\n"
        "restorer:\n"
        "  mov $15, %eax\n"
        "  syscall\n"
        ".size restorer, . - restorer\n"
        ".type enter_80, @function\n"
        "enter_80:\n"
        "  push %rbx\n"
        "  mov %edi, %eax\n"
        "  int $0x80\n"
        "  pop %rbx\n"
        "  ret\n"
        ".size enter_80, . - enter_80\n");

/* Whether RCX and R11 are what SYSCALL leaves. */
static int registers_are_right(void) {
    return rcx_after == (unsigned long)the_syscall + 2 && (r11_after & 0x301) == 0x201;
}

static int waiter;

/* Sends `signal` to the main thread as soon as that waits in system call `number`. */
struct shot {
    int signal, number;
};

static void *shoot(void *argument) {
    struct shot *shot = argument;
    char path[64], text[32];
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", waiter);
    for (;;) {
        int file = open(path, O_RDONLY);
        ssize_t length = read(file, text, sizeof text - 1);
        close(file);
        text[length > 0 ? length : 0] = 0;
        if (length > 0 && text[0] >= '0' && text[0] <= '9' && atoi(text) == shot->number)
            break;
        sched_yield();
    }
    syscall(SYS_tgkill, getpid(), waiter, shot->signal);
    return 0;
}

static int pipe_ends[2];
static volatile int handled;

static void handler(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    char line[100];
    int length = snprintf(line, sizeof line, "handler: signal %d rip %+lld rax %lld\n", signal,
                          (long long)(registers[REG_RIP] - (long)the_syscall), (long long)registers[REG_RAX]);
    (void)info;
    handled++;
    write(1, line, length);
    write(pipe_ends[1], "x", 1);
}

struct kernel_action {
    void (*handler)(int, siginfo_t *, void *);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long mask;
};

static void install(int signal, int flags) {
    struct kernel_action action = {handler, SA_SIGINFO | 0x04000000 | flags, restorer, 0};
    if (enter(SYS_rt_sigaction, signal, (long)&action, 0, 8))
        exit(100);
}

static void interrupted_read(int flags) {
    struct shot shot = {SIGUSR1, SYS_read};
    pthread_t thread;
    char byte = 0;
    install(SIGUSR1, flags);
    pipe(pipe_ends);
    pthread_create(&thread, 0, shoot, &shot);
    long result = enter(SYS_read, pipe_ends[0], (long)&byte, 1, 0);
    pthread_join(thread, 0);
    dprintf(1, "read %ld %d right %d\n", result, byte, registers_are_right());
}

static void interrupted_sleep(int signal) {
    struct shot shot = {signal, SYS_nanosleep};
    struct timespec time = {0, 200000000}, before, after;
    pthread_t thread;
    clock_gettime(CLOCK_MONOTONIC, &before);
    pthread_create(&thread, 0, shoot, &shot);
    long result = enter(SYS_nanosleep, (long)&time, 0, 0, 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    pthread_join(thread, 0);
    long passed = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
    dprintf(1, "nanosleep %ld long enough %d right %d\n", result, passed >= 199, registers_are_right());
}

static void wait_for(long child) {
    int status = 0;
    long result = enter(SYS_wait4, child, (long)&status, __WALL, 0);
    dprintf(1, "child %d status %x right %d\n", result == child, status, registers_are_right());
}

static void family(long number) {
    static char *arguments[] = {"/bin/sh", "-c", "exit 3", 0};
    long child = enter(number, 0, 0, 0, 0);
    if (child == 0) {
        if (number == SYS_fork)
            enter(SYS_exit_group, registers_are_right() ? 7 : 8, 0, 0, 0);
        enter(SYS_execve, (long)arguments[0], (long)arguments, 0, 0);
        enter(SYS_exit_group, 9, 0, 0, 0);
    }
    wait_for(child);
}

static long in_clone(void) {
    return 6;
}

static void *exits(void *argument) {
    enter(SYS_exit, 0, 0, 0, 0);
    return argument;
}

static void system_call_refused(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    dprintf(1, "signal %d code %d call %ld at %+ld rip %+lld rax %lld\n", signal, info->si_code,
            (long)info->si_syscall, (long)info->si_call_addr - (long)the_syscall,
            (long long)(registers[REG_RIP] - (long)the_syscall), (long long)registers[REG_RAX]);
}

static void filter(void) {
    struct sigaction action = {.sa_sigaction = system_call_refused, .sa_flags = SA_SIGINFO};
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getuid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
        /* Only calls from `enter` may ask for the group. */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getgid, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)(unsigned long)the_syscall + 2, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 78),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog all = {sizeof program / sizeof *program, program};
    sigaction(SIGSYS, &action, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    dprintf(1, "seccomp %ld\n", enter(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&all, 0));
    enter(SYS_getppid, 0, 0, 0, 0);
    dprintf(1, "getuid %ld\n", enter(SYS_getuid, 0, 0, 0, 0));
    dprintf(1, "getgid %d\n", enter(SYS_getgid, 0, 0, 0, 0) == -78);
}

static char selector;

/* System calls are refused by where they are made. */
static void dispatched(int signal, siginfo_t *info, void *context) {
    selector = 0;
    system_call_refused(signal, info, context);
}

static void dispatch(void) {
    struct sigaction action = {.sa_sigaction = dispatched, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, 0);
    long from = (long)the_syscall & -16;
    dprintf(1, "prctl %d\n", prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &selector));
    selector = 1;
    enter(SYS_getppid, 0, 0, 0, 0);
    /* Now only those of `enter` are made. */
    prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, from, 32, &selector);
    selector = 1;
    long result = enter(SYS_getpid, 0, 0, 0, 0);
    selector = 0;
    dprintf(1, "getpid %d\n", result == getpid());
}

/* Waits for the end of its input in a probed system call, again and again. */
static int wait_for_input(void) {
    char byte;
    write(1, "ready\n", 6);
    return enter(SYS_read, 0, (long)&byte, 1, 0) == 0 && registers_are_right() ? 0 : 1;
}

int main(int count, char **arguments) {
    const char *how = count > 1 ? arguments[1] : "";
    waiter = getpid();
    if (!strcmp(how, "restart"))
        interrupted_read(SA_RESTART);
    else if (!strcmp(how, "eintr"))
        interrupted_read(0);
    else if (!strcmp(how, "sleep"))
        /* Ignored: only a tracer notices, and the system call is restarted by restart_syscall. */
        interrupted_sleep(SIGURG);
    else if (!strcmp(how, "fork"))
        family(SYS_fork);
    else if (!strcmp(how, "vfork"))
        family(SYS_vfork);
    else if (!strcmp(how, "clone")) {
        static char stack[65536] __attribute__((aligned(16)));
        wait_for(enter_clone(CLONE_VM | CLONE_FILES | SIGCHLD, stack + sizeof stack, in_clone));
    } else if (!strcmp(how, "exec")) {
        char *again[] = {arguments[0], "again", 0};
        dprintf(1, "failing execve %ld\n", enter(SYS_execve, (long)"/nowhere", (long)again, 0, 0));
        enter(SYS_execve, (long)"/proc/self/exe", (long)again, 0, 0);
    } else if (!strcmp(how, "again"))
        enter(SYS_exit_group, 5, 0, 0, 0);
    else if (!strcmp(how, "thread")) {
        pthread_t thread;
        pthread_create(&thread, 0, exits, 0);
        dprintf(1, "joined %d\n", pthread_join(thread, 0));
    } else if (!strcmp(how, "sigreturn")) {
        pipe(pipe_ends);
        install(SIGUSR2, 0);
        long result = enter(SYS_tgkill, getpid(), waiter, SIGUSR2, 0);
        dprintf(1, "tgkill %ld handled %d right %d\n", result, handled, registers_are_right());
    } else if (!strcmp(how, "seccomp"))
        filter();
    else if (!strcmp(how, "dispatch"))
        dispatch();
    else if (!strcmp(how, "wait"))
        return wait_for_input();
    else if (!strcmp(how, "int80")) {
        long result = enter_80(20);
        dprintf(1, "getpid %d\n", result == getpid());
    } else
        return 101;
    return 0;
}
