// overhead BUNDLE LIBRARY ROUNDS: Student::run beside ONNX Runtime's C API called directly, in turns, and what each allocates.
// One line of JSON: {"direct": [...], "student": [...]} seconds, {"allocations": {"direct", "student"}} a call, "same" outputs.
#include "onnxruntime_api.hpp"

#include <edgekd/student.hpp>

#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
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

namespace ort = edgekd::core::ort;

[[noreturn]] void stop(const char* what) {
    std::fprintf(stderr, "error: %s\n", what);
    std::exit(1);
}

// The engine as an app would run it without edgekd: one session, tensors over its own buffers, made once.
class Direct {
  public:
    Direct(const char* bundle, const char* library, const edgekd::Port& in, std::vector<float>& x, const edgekd::Port& out,
           std::vector<float>& y)
        : names_{in.name, out.name} {
        void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
        if (handle == nullptr) stop(dlerror());
        const auto base = reinterpret_cast<const ort::Base* (*)()>(dlsym(handle, "OrtGetApiBase"));
        table_ = base()->get_api(ort::kVersion);
        std::ifstream stream(std::string(bundle) + "/engine/model.onnx", std::ios::binary);
        const std::string model((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
        ort::Env* env = nullptr;
        ort::SessionOptions* options = nullptr;
        ort::MemoryInfo* memory = nullptr;
        good(at<ort::CreateEnv>()(3, "direct", &env));
        good(at<ort::CreateSessionOptions>()(&options));
        good(at<ort::SetIntraOpNumThreads>()(options, 1));
        good(at<ort::SetInterOpNumThreads>()(options, 1));
        good(at<ort::AddSessionConfigEntry>()(options, "session.intra_op.allow_spinning", "0"));
        good(at<ort::CreateSessionFromArray>()(env, model.data(), model.size(), options, &session_));
        good(at<ort::CreateCpuMemoryInfo>()(ort::kArenaAllocator, ort::kMemoryDefault, &memory));
        good(at<ort::CreateTensorWithDataAsOrtValue>()(memory, x.data(), 4 * x.size(), in.shape, in.rank, 1, &in_));
        good(at<ort::CreateTensorWithDataAsOrtValue>()(memory, y.data(), 4 * y.size(), out.shape, out.rank, 1, &out_));
    }

    void run() { good(at<ort::Run>()(session_, nullptr, &names_[0], &in_, 1, &names_[1], 1, &out_)); }

  private:
    template <class Function>
    typename Function::Pointer at() const {
        return Function::in(table_);
    }
    void good(ort::Status* status) const {
        if (status != nullptr) stop(at<ort::GetErrorMessage>()(status));
    }

    const char* names_[2];
    const ort::Slot* table_ = nullptr;
    ort::Session* session_ = nullptr;
    ort::Value* in_ = nullptr;
    ort::Value* out_ = nullptr;
};

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
    Direct direct(words[1], words[2], in, x, out, z);
    const auto theirs = [&] { direct.run(); };
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
