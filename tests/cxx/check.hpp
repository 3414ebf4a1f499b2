// CHECK: says which condition does not hold, and goes on; a program's exit code is whether all did.
#pragma once

#include <cstdio>

inline int failures = 0;

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            ++failures;                                                             \
        }                                                                           \
    } while (false)
