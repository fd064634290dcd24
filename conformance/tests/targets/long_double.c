// printf and strtod of long doubles, doubles and floats in all formats and rounding modes. The argument says
// how many; ends with 1 if a number does not come back as it went.
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t next(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static long double number(int index) {
    static const long double special[] = {0.0L, -0.0L, 1.0L, 0.1L, LDBL_MAX, LDBL_MIN, LDBL_TRUE_MIN, INFINITY,
                                          -INFINITY, NAN, 0.5L, 2.5L, 1e-4940L, 123456789.125L};
    if (index < 14) return special[index];
    long double value = 0;
    uint64_t significand = next() | 1ull << 63;
    uint16_t exponent = 1 + next() % 0x7ffe;
    memcpy(&value, &significand, sizeof significand);
    memcpy((char *)&value + sizeof significand, &exponent, sizeof exponent);
    return next() & 1 ? -value : value;
}

int main(int argc, char **argv) {
    static const int rounding[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    static const char *const formats[] = {"%La", "%.40Le", "%Lf", "%.0Lf", "%+.5Lg", "%#.17LG", "%030.3Le"};
    static char text[6000];
    int wrong = 0;
    for (int index = 0; index < atoi(argv[1]) + 14; index++) {
        long double value = number(index);
        fesetround(rounding[index & 3]);
        for (int format = 0; format < 7; format++) snprintf(text, sizeof text, formats[format], value);
        fesetround(FE_TONEAREST);
        snprintf(text, sizeof text, "%.21Lg", value);
        long double same = strtold(text, 0);
        wrong |= !(same == value || (isnan(same) && isnan(value)));
        fesetround(rounding[index & 3]);
        volatile double narrow = strtod(text, 0);
        volatile float narrower = strtof(text, 0);
        snprintf(text, sizeof text, "%.17g %.9g", narrow, narrower);
        snprintf(text, sizeof text, "0x%llxp%d", (unsigned long long)next(), (int)(next() % 2000) - 1000);
        narrow = strtod(text, 0);
        value = strtold(text, 0);
    }
    return wrong;
}
