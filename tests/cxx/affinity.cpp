// affinity BUNDLE THREADS: running a student leaves its caller on the cores that it had, and adds THREADS - 1 threads, no more.
#include "check.hpp"

#include <edgekd/student.hpp>

#include <sched.h>

#include <array>
#include <cstdlib>
#include <filesystem>

namespace {

int threads_now() {
    int found = 0;
    for (const auto& one : std::filesystem::directory_iterator("/proc/self/task")) found += one.path().empty() ? 0 : 1;
    return found;
}

}  // namespace

int main(int count, char** words) {
    if (count != 3) return 2;
    const int threads = std::atoi(words[2]);
    cpu_set_t before, after;
    CHECK(sched_getaffinity(0, sizeof(before), &before) == 0);
    edgekd::Student student;
    edgekd::Options options{};
    options.threads = threads;
    CHECK(student.open(words[1], options));
    const int opened = threads_now();
    std::array<float, 64> x{};
    std::array<float, 5> y{}, again{};
    CHECK(student.run(x, y));
    CHECK(student.run(x, again));
    CHECK(y == again);
    CHECK(threads_now() == opened + threads - 1);
    CHECK(sched_getaffinity(0, sizeof(after), &after) == 0);
    CHECK(CPU_EQUAL(&before, &after));
    return failures == 0 ? 0 : 1;
}
