// Functions that return, and that do not. Each way prints, for every call that has returned, the function, its first
// argument, and its result, in the order of the returns, as those who called them have it.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void came_back(const char *function, long argument, long result) {
    printf("%s %ld %ld\n", function, argument, result);
}

#define CALL(function, argument)                        \
    ({                                                  \
        long argument_ = (argument);                    \
        long result_ = function(argument_);             \
        came_back(#function, argument_, result_);       \
        result_;                                        \
    })

// Recursion.

long fibonacci(long n) { return n < 2 ? n : CALL(fibonacci, n - 1) + CALL(fibonacci, n - 2); }

// Tail calls. All of them return to one place.

long even(long n);
long odd(long n);
long last(long n);
long first(long n);
asm(".text\n"
    ".type even,@function\neven: test %rdi,%rdi\nje 1f\ndec %rdi\njmp odd\n1: mov $1,%eax\nret\n.size even,.-even\n"
    ".type odd,@function\nodd: test %rdi,%rdi\nje 1f\ndec %rdi\njmp even\n1: xor %eax,%eax\nret\n.size odd,.-odd\n"
    ".type last,@function\nlast: lea 5(%rdi),%rax\nret\n.size last,.-last\n"
    // By a pointer, as through a table.
    ".type first,@function\nfirst: endbr64\nlea last(%rip),%rax\njmp *%rax\n.size first,.-first\n");

// Longjmp, from some depth, to before the call.

static jmp_buf before;

long inner(long n) {
    if (n % 2 == 1) longjmp(before, 1);
    return n * 10;
}

long outer(long n) { return CALL(inner, n) + 1; }

long jumped;
void jumps(void);
// The place behind the call is where longjmp leads, too, and nothing is called in between.
asm(".text\n.type jumps,@function\n"
    "jumps: push %rbx\nlea before(%rip),%rdi\ncall _setjmp@PLT\ntest %eax,%eax\njne 1f\n"
    "mov jumped(%rip),%rdi\ncall outer\n1: incq jumped(%rip)\npop %rbx\nret\n.size jumps,.-jumps\n");

void leaves(void);
// Longjmp leads elsewhere, to another call, and leaves all registers as they were.
asm(".text\n.type leaves,@function\n"
    "leaves: push %rbx\nlea before(%rip),%rdi\ncall _setjmp@PLT\ntest %eax,%eax\njne 1f\n"
    "mov jumped(%rip),%rdi\ncall outer\njmp 2f\n1: call nothing\n2: incq jumped(%rip)\npop %rbx\nret\n"
    ".type nothing,@function\nnothing: ret\n.size nothing,.-nothing\n.size leaves,.-leaves\n");

static void by_longjmp(long rounds) {
    for (volatile long i = 0; i < rounds; i++) {
        if (setjmp(before) == 0) CALL(outer, i);
    }
    for (jumped = 0; jumped < rounds;) {
        long n = jumped;
        jumps();
        if (n % 2 == 0) came_back("outer", n, n * 10 + 1);
    }
    for (jumped = 0; jumped < rounds;) {
        // Twice in a row.
        jumped |= 1;
        leaves();
        jumped |= 1;
        leaves();
        leaves();
        came_back("outer", jumped - 1, (jumped - 1) * 10 + 1);
    }
}

// Coroutines on parts of one block of memory, which may be resumed by another thread than the one that has left them.

enum { STACK = 1 << 16, ROUTINES = 3, STEPS = 4 };
static ucontext_t routines[ROUTINES], resumer;
static char *stacks;

long pause_in(long n) {
    swapcontext(&routines[n / 100], &resumer);
    return n + 1;
}

long step(long n) { return CALL(pause_in, n) * 2; }

static void routine(int number) {
    for (int i = 0; i < STEPS; i++) CALL(step, number * 100 + i);
}

static void *resume_all(void *unused) {
    // The context of one that ends leads to where it was last resumed.
    for (int i = 0; i < ROUTINES; i++) swapcontext(&resumer, &routines[i]);
    return unused;
}

static void by_coroutines(long threads) {
    stacks = malloc(ROUTINES * STACK);
    for (int i = 0; i < ROUTINES; i++) {
        getcontext(&routines[i]);
        routines[i].uc_stack.ss_sp = stacks + i * STACK;
        routines[i].uc_stack.ss_size = STACK;
        routines[i].uc_link = &resumer;
        makecontext(&routines[i], (void (*)(void))routine, 1, i);
    }
    for (int i = 0; i <= STEPS; i++) {
        pthread_t thread;
        if (!threads) {
            resume_all(NULL);
        } else {
            pthread_create(&thread, NULL, resume_all, NULL);
            pthread_join(thread, NULL);
        }
    }
}

// Threads.

static long each;

long doubled(long n) { return n * 2; }

static void *in_thread(void *number) {
    for (long i = 0; i < each; i++) CALL(doubled, (long)number * 1000 + i);
    return NULL;
}

static void by_threads(long rounds) {
    pthread_t threads[4];
    each = rounds;
    for (long i = 0; i < (long)COUNT(threads); i++) pthread_create(&threads[i], NULL, in_thread, (void *)i);
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
}

long ends(long n) {
    if (n % 2 == 1) pthread_exit(NULL);
    return n;
}

static void *to_its_end(void *number) {
    CALL(ends, (long)number);
    return NULL;
}

static void by_ending(long rounds) {
    for (long i = 0; i < rounds; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, to_its_end, (void *)i);
        pthread_join(thread, NULL);
    }
}

// Processes.

long forks(long n) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) return n + 1;
    waitpid(child, NULL, 0);
    return n + 2;
}

static void by_fork(long n) {
    long result = CALL(forks, n);
    if (result != n + 1) return;
    CALL(doubled, n);
    fflush(stdout);
    _exit(0);
}

// It returns twice, on one stack.
static void by_vfork(long n) {
    pid_t child = vfork();
    if (child == 0) {
        execl("/proc/self/exe", "returns", "doubled", "1", NULL);
        _exit(1);
    }
    waitpid(child, NULL, 0);
    CALL(doubled, n);
}

// Signals, on a stack of their own.

static sigjmp_buf out;

long handled(long n) { return n + 3; }

static void handler(int signal) {
    long result = CALL(handled, signal);
    if (result % 2) siglongjmp(out, 1);
}

long raises(long n) {
    raise((int)n);
    return n;
}

static void by_signals(long rounds) {
    stack_t stack = { .ss_sp = malloc(STACK), .ss_size = STACK };
    sigaltstack(&stack, NULL);
    struct sigaction action = { .sa_handler = handler, .sa_flags = SA_ONSTACK | SA_NODEFER };
    // One even, and one odd, which is left.
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGCHLD, &action, NULL);
    for (volatile long i = 0; i < rounds; i++) {
        if (sigsetjmp(out, 1) == 0) CALL(raises, SIGUSR1);
        if (sigsetjmp(out, 1) == 0) CALL(raises, SIGCHLD);
    }
}

// Results.

struct pair { long first, second; };
struct reals { double first, second; };
struct mixed { long first; double second; };
struct large { long parts[5]; };

int integer(long n) { return (int)-n; }
double real(long n) { return (double)n / 4; }
struct pair pair(long n) { return (struct pair){ n, ~n }; }
struct reals reals(long n) { return (struct reals){ (double)n, -(double)n }; }
struct mixed mixed(long n) { return (struct mixed){ n + 1, (double)n / 2 }; }
struct large large(long unused, long n) { (void)unused; return (struct large){ { n, 1, 2, 3, n * n } }; }

static void by_results(long n) {
    struct pair two = pair(n);
    struct reals both = reals(n);
    struct mixed some = mixed(n);
    struct large all = large(0, n);
    printf("integer %d\nreal %g\npair %ld %ld\nreals %g %g\nmixed %ld %g\nlarge %ld %ld\n", integer(n), real(n),
           two.first, two.second, both.first, both.second, some.first, some.second, all.parts[0], all.parts[4]);
}

// What calls a function, when it may be waited for.

static void by_waiting(long n) {
    char byte;
    puts("ready");
    fflush(stdout);
    while (read(0, &byte, 1) == 1) CALL(doubled, n++);
}

long waits(long n) {
    char byte;
    puts("ready");
    fflush(stdout);
    while (read(0, &byte, 1) < 0 && errno == EINTR) {}
    return n;
}

int main(int argc, char **argv) {
    const char *way = argc > 1 ? argv[1] : "";
    long n = argc > 2 ? atol(argv[2]) : 1;
    if (!strcmp(way, "fibonacci")) CALL(fibonacci, n);
    if (!strcmp(way, "tails")) CALL(even, n), CALL(odd, n), CALL(first, n), CALL(last, n);
    if (!strcmp(way, "longjmp")) by_longjmp(n);
    if (!strcmp(way, "coroutines")) by_coroutines(0);
    if (!strcmp(way, "wandering")) by_coroutines(1);
    if (!strcmp(way, "threads")) by_threads(n);
    if (!strcmp(way, "ending")) by_ending(n);
    if (!strcmp(way, "fork")) by_fork(n);
    if (!strcmp(way, "vfork")) by_vfork(n);
    if (!strcmp(way, "signals")) by_signals(n);
    if (!strcmp(way, "results")) by_results(n);
    if (!strcmp(way, "doubled")) CALL(doubled, n);
    if (!strcmp(way, "waiting")) by_waiting(n);
    if (!strcmp(way, "waits")) CALL(waits, n);
    return 0;
}
