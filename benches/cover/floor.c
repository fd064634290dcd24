/* floor TIMES: stops at an INT3 and is continued so often, by a parent on the same processor. */
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    long times = atol(arguments[1]);
    int status;
    pid_t pid = fork();
    if (!pid) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        for (long i = 0; i < times; i++)
            __asm__ volatile("int3");
        _exit(0);
    }
    while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status))
        ptrace(PTRACE_CONT, pid, 0, 0);
    return count - 2;
}
