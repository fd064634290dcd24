// Functions that are left by exceptions. Prints, for every call that has returned, the function, its first argument, and
// its result, in the order of the returns, as those who called them have it; and what was caught.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <thread>

static int destroyed;

struct Guard {
    ~Guard() { destroyed++; }
};

static long came_back(const char *function, long argument, long result) {
    std::printf("%s %ld %ld\n", function, argument, result);
    return result;
}

#define CALL(function, argument) came_back(#function, argument, function(argument))

extern "C" {
long deep(long n) {
    Guard guard;
    if (n == 3) throw std::runtime_error("deep");
    return n < 4 ? n : CALL(deep, n - 4) + 1;
}

// It catches, and goes on behind the call as if that had returned.
long catches(long n) {
    long result = 100;
    try {
        result = CALL(deep, n);
    } catch (const std::exception &) {
    }
    return result;
}

// Nothing is between the call and where it goes on after an exception.
long joins(long n) {
    try {
        deep(n);
    } catch (...) {
    }
    return n;
}

long throws_again(long n) {
    try {
        return CALL(deep, n);
    } catch (const std::runtime_error &) {
        Guard guard;
        throw;
    }
}

long outermost(long n) {
    try {
        return CALL(throws_again, n);
    } catch (const std::exception &) {
        return -1;
    }
}
}

int main(int argc, char **argv) {
    long rounds = argc > 1 ? std::atol(argv[1]) : 1;
    for (long n = 0; n < rounds; n++) {
        CALL(catches, n);
        // `deep` itself prints nothing of the outermost call here.
        if (n % 4 == 3) CALL(joins, n);
        CALL(outermost, n);
    }
    std::printf("destroyed %d 0\n", destroyed);
    return 0;
}
