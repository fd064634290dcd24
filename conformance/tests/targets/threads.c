// Threads: one that works while another waits for it, some at once, in turns, beside one for which the kernel writes
// now and then, interrupted, and stopped. `threads ROUNDS [PART]`. Ends with the number of what went wrong.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { WORDS = 4096, WORKERS = 3, TICKS = 20 };

static unsigned rounds;

struct work {
    uint64_t seed, sum;
    uint64_t words[WORDS];
};

// Comes to new memory all the time.
static void *work(void *argument) {
    struct work *work = argument;
    uint64_t value = work->seed;
    work->sum = 0;
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned at = 0; at < WORDS; at++) work->words[at] = value = value * 6364136223846793005 + 1;
        for (unsigned at = 0; at < WORDS; at++) work->sum += work->words[at] * at;
    }
    return 0;
}

static int alone(void) {
    static struct work here = {.seed = 1}, there = {.seed = 1};
    pthread_t thread;
    work(&here);
    if (pthread_create(&thread, 0, work, &there)) return 1;
    pthread_join(thread, 0);
    return here.sum != there.sum;
}

static int together(void) {
    static struct work works[WORKERS], again;
    pthread_t threads[WORKERS];
    for (int worker = 0; worker < WORKERS; worker++) {
        works[worker].seed = worker;
        if (pthread_create(&threads[worker], 0, work, &works[worker])) return 1;
    }
    for (int worker = 0; worker < WORKERS; worker++) {
        pthread_join(threads[worker], 0);
        again.seed = worker;
        work(&again);
        if (again.sum != works[worker].sum) return 1;
    }
    return 0;
}

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned turn;
    uint64_t words[256];
} ball = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};

static void *play(void *argument) {
    unsigned parity = argument != 0;
    pthread_mutex_lock(&ball.mutex);
    while (ball.turn < 40) {
        if (ball.turn % 2 == parity) {
            for (unsigned at = 0; at < 256; at++) ball.words[at] += at;
            ball.turn++;
            pthread_cond_signal(&ball.changed);
        } else {
            pthread_cond_wait(&ball.changed, &ball.mutex);
        }
    }
    pthread_mutex_unlock(&ball.mutex);
    return 0;
}

static int turns(void) {
    pthread_t other;
    if (pthread_create(&other, 0, play, &ball)) return 1;
    play(0);
    pthread_join(other, 0);
    for (unsigned at = 0; at < 256; at++) {
        if (ball.words[at] != 40 * at) return 1;
    }
    return 0;
}

// The kernel writes `expirations` while the other thread reads it, and works on what lies beside it.
static struct {
    uint64_t seen[256];
    volatile uint64_t expirations;
    uint64_t words[256];
} clockwork;
static atomic_uint ticks;

static void *tick(void *argument) {
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec every = {{0, 5000000}, {0, 5000000}};
    if (timerfd_settime(timer, 0, &every, 0)) return argument;
    for (unsigned at = 0; at < TICKS; at++) {
        if (read(timer, (void *)&clockwork.expirations, sizeof(uint64_t)) != sizeof(uint64_t)) return argument;
        clockwork.expirations = 0;
        ticks++;
    }
    close(timer);
    return 0;
}

static int beside(void) {
    pthread_t other;
    void *failed;
    uint64_t turn = 0;
    if (pthread_create(&other, 0, tick, &clockwork)) return 1;
    for (; ticks < TICKS; turn++) {
        for (unsigned at = 0; at < 256; at++) {
            clockwork.seen[at] = clockwork.expirations;
            clockwork.words[at] += at;
        }
    }
    pthread_join(other, &failed);
    for (unsigned at = 0; at < 256; at++) {
        if (clockwork.words[at] != turn * at) return 1;
    }
    return failed != 0;
}

static int never[2];
static atomic_int is_there;

static void interrupted(int signal) {}

static void *wait_for_nothing(void *argument) {
    char byte;
    is_there = 1;
    ssize_t length = read(never[0], &byte, 1);
    is_there = 2;
    return length == -1 && errno == EINTR ? 0 : argument;
}

static int interrupt(void) {
    static struct work while_it_waits = {.seed = 7};
    struct sigaction action = {.sa_handler = interrupted};
    pthread_t other;
    void *failed;
    sigaction(SIGUSR1, &action, 0);
    if (pipe(never) || pthread_create(&other, 0, wait_for_nothing, never)) return 1;
    while (!is_there) {}
    work(&while_it_waits);
    // It may not have come to wait yet.
    while (is_there != 2) {
        pthread_kill(other, SIGUSR1);
        usleep(1000);
    }
    pthread_join(other, &failed);
    return failed != 0;
}

static void *sleep_through(void *argument) {
    struct timespec time = {0, 300000000};
    is_there = 1;
    return nanosleep(&time, 0) ? argument : 0;
}

// All threads stop, in the kernel or outside of it; who traces them lets them go on.
static int stop(void) {
    pthread_t other;
    void *failed;
    is_there = 0;
    if (pthread_create(&other, 0, sleep_through, never)) return 1;
    while (!is_there) {}
    for (int times = 0; times < 3; times++) {
        // It may not have come to sleep yet.
        usleep(20000);
        kill(getpid(), SIGSTOP);
    }
    pthread_join(other, &failed);
    return failed != 0;
}

int main(int count, char **arguments) {
    int (*const parts[])(void) = {alone, together, turns, beside, interrupt, stop};
    rounds = count > 1 ? atoi(arguments[1]) : 1;
    for (int part = 0; part < 6; part++) {
        if ((count < 3 || atoi(arguments[2]) == part) && parts[part]()) return 10 + part;
    }
    return 0;
}
