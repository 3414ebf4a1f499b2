// overhead BUNDLE LIBRARY ROUNDS: Student::run beside the runtime's own API called directly, in turns, and what each allocates.
// One line of JSON: {"direct": [...], "student": [...]} seconds, {"allocations": {"direct", "student"}} a call, "same" outputs.
#include "direct.hpp"

#include <edgekd/student.hpp>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {
std::atomic<long> allocations{0};
}

// Every allocation of the process is counted, the runtime's too: its library resolves these names to ours.
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* old, size_t size);
void* __libc_memalign(size_t alignment, size_t size);

void* malloc(size_t size) {
    ++allocations;
    return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
    ++allocations;
    return __libc_calloc(count, size);
}
void* realloc(void* old, size_t size) {
    ++allocations;
    return __libc_realloc(old, size);
}
int posix_memalign(void** out, size_t alignment, size_t size) {
    ++allocations;
    *out = __libc_memalign(alignment, size);
    return *out != nullptr ? 0 : 12;
}
void* aligned_alloc(size_t alignment, size_t size) {
    ++allocations;
    return __libc_memalign(alignment, size);
}
}

namespace {

template <class Call>
double timed(Call&& call) {
    const auto started = std::chrono::steady_clock::now();
    call();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

template <class Call>
long allocated(Call&& call) {
    const long before = allocations;
    call();
    return allocations - before;
}

void print(const char* name, const std::vector<double>& seconds) {
    std::printf("\"%s\": [", name);
    for (std::size_t i = 0; i < seconds.size(); ++i) std::printf("%s%.9g", i == 0 ? "" : ", ", seconds[i]);
    std::printf("], ");
}

}  // namespace

int main(int count, char** words) {
    if (count != 4) return 2;
    edgekd::Student student;
    edgekd::Options options{};
    options.runtime = words[2];
    if (const auto opened = student.open(words[1], options); !opened) stop(opened.message());
    const edgekd::Port in = student.input(), out = student.output();
    std::vector<float> x(in.count), y(out.count), z(out.count);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 101) / 101 - 0.5f;
    const bool null = std::strcmp(student.backend(), "null") == 0;
    const auto ours = [&] {
        if (const auto ran = student.run(x, y); !ran) stop(ran.message());
    };
    if (null) {
        for (int i = 0; i < 10; ++i) ours();
        std::printf("{\"allocations\": {\"student\": %ld}}\n", allocated(ours));
        return 0;
    }
    const Task task{std::string(words[1]) + "/engine", words[2], in, out, x, z};
    std::unique_ptr<Direct> direct;
    if (std::strcmp(student.backend(), "openvino") == 0) direct = std::make_unique<DirectOpenVino>(task);
    else direct = std::make_unique<DirectOnnxRuntime>(task);
    const auto theirs = [&] { direct->run(); };
    for (int i = 0; i < 100; ++i) ours(), theirs();
    const long student_allocated = allocated(ours), direct_allocated = allocated(theirs);
    std::vector<double> student_seconds, direct_seconds;
    const int rounds = std::atoi(words[3]);
    student_seconds.reserve(static_cast<std::size_t>(rounds));
    direct_seconds.reserve(static_cast<std::size_t>(rounds));
    for (int i = 0; i < rounds; ++i) {  // in turns, and another one first each time
        if (i % 2 == 0) student_seconds.push_back(timed(ours));
        direct_seconds.push_back(timed(theirs));
        if (i % 2 != 0) student_seconds.push_back(timed(ours));
    }
    std::printf("{");
    print("direct", direct_seconds);
    print("student", student_seconds);
    std::printf("\"allocations\": {\"direct\": %ld, \"student\": %ld}, \"same\": %s}\n", direct_allocated, student_allocated,
                y == z ? "true" : "false");
}
