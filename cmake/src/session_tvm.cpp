// TVM on the CPU: the engine is a library that TVM compiled, run by its virtual machine. TVM's runtime is loaded at run time.
//
// The engine IS machine code, which opening it loads into the process: unlike other bundles, one for tvm is as trusted as the
// program itself. Its digest is checked before, as everywhere.
//
// Inputs that lie on a multiple of 64 bytes, which the compiled code counts on, are lent; others are copied to such a place.
// The machine gives tensors of its own, which are copied into the app's. Both its tensors and its frames allocate in each call.
#include "aligned.hpp"
#include "failure.hpp"
#include "library.hpp"
#include "memory_file.hpp"
#include "runtime_version.hpp"
#include "session.hpp"
#include "tvm_api.hpp"
#include "views.hpp"

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

namespace edgekd::core {
namespace {

constexpr const char* kPackage = "apache-tvm";
constexpr const char* kInterface = "apache-tvm-ffi";  // whose version its library tells; TVM's own does not
constexpr std::int64_t kCpu = 1;
constexpr std::int64_t kPooled = 2;        // the machine's allocator keeps what it freed
constexpr std::int64_t kAnyCore = 0;

void describe(tvm::Dense& dense, edgekd_dtype dtype) noexcept {
    dense.bits = static_cast<std::uint8_t>(8 * edgekd_dtype_bytes(dtype));
    dense.lanes = 1;
    switch (dtype) {  // DLDataTypeCode
        case EDGEKD_FLOAT16:
        case EDGEKD_FLOAT32:
        case EDGEKD_FLOAT64: dense.code = 2; break;
        case EDGEKD_BOOL: dense.code = 6; break;
        case EDGEKD_UINT8:
        case EDGEKD_UINT16:
        case EDGEKD_UINT32:
        case EDGEKD_UINT64: dense.code = 1; break;
        default: dense.code = 0;
    }
}

// A tensor's description with the sizes that it points to; freed when TVM's tensor goes.
struct Lent {
    tvm::Managed managed{};
    std::array<std::int64_t, kMostDimensions> shape{};
    std::array<std::int64_t, kMostDimensions> strides{};
};

// The loaded library. Lives until the process ends.
class Runtime {
  public:
    using View = tvm::Object*;

    static Runtime& get(const Opening& opening) {
        static std::mutex mutex;
        static Runtime* loaded = nullptr;
        const std::lock_guard<std::mutex> hold(mutex);
        if (loaded == nullptr) loaded = new Runtime(opening);
        return *loaded;
    }

    const std::string& path() const noexcept { return library_.path(); }
    const char* version() const noexcept { return version_.c_str(); }

    // A Failure with TVM's words unless `code` is 0.
    void good(int code, const char* doing) const {
        if (code == 0) return;
        tvm::Object* error = nullptr;
        api_.ErrorMoveFromRaised(&error);
        std::string why = "no reason given";
        if (error != nullptr) {
            const auto& said = tvm::cell<tvm::Error>(error);
            why.assign(said.message.data, said.message.size);
            release(error);
        }
        fail(EDGEKD_RUNTIME_FAILED, std::string("tvm ") + doing + ": " + why);
    }

    tvm::Object* global(const char* name) const {
        const tvm::Text text{name, std::strlen(name)};
        tvm::Object* found = nullptr;
        if (api_.FunctionGetGlobal(&text, &found) != 0 || found == nullptr)
            fail(EDGEKD_NO_RUNTIME, path() + " is no TVM runtime that this library knows (it has no " + name + ')');
        return found;
    }

    tvm::Any call(tvm::Object* function, tvm::Any* arguments, std::size_t count, const char* doing) const {
        tvm::Any result{};
        good(api_.FunctionCall(function, arguments, static_cast<std::int32_t>(count), &result), doing);
        return result;
    }

    View make(const Tensor& tensor) const {
        auto lent = std::make_unique<Lent>();
        std::int64_t stride = 1;
        for (std::size_t i = tensor.rank; i > 0; --i) {
            lent->shape[i - 1] = tensor.shape[i - 1];
            lent->strides[i - 1] = stride;
            stride *= tensor.shape[i - 1];
        }
        tvm::Dense& dense = lent->managed.tensor;
        dense.data = tensor.data;
        dense.device = static_cast<std::int32_t>(kCpu);
        dense.rank = static_cast<std::int32_t>(tensor.rank);
        dense.shape = lent->shape.data();
        dense.strides = lent->strides.data();
        describe(dense, tensor.dtype);
        lent->managed.context = lent.get();
        lent->managed.deleter = [](tvm::Managed* self) { delete static_cast<Lent*>(self->context); };
        View made = nullptr;
        good(api_.TensorFromDLPack(&lent->managed, 0, 1, &made), "cannot take a tensor");
        lent.release();  // NOLINT: the tensor's deleter has it now
        return made;
    }
    void release(View view) const noexcept {
        if (view != nullptr) api_.ObjectDecRef(view);
    }

  private:
    static std::string cure(const Opening& opening) {
        return install(opening, kPackage) + " and run CMake again, or say in EDGEKD_TVM_ROOT which folder holds libtvm_runtime.so";
    }

    // TVM would pin the threads that call it to the first cores, whatever the app had chosen for them.
    static Library load(const Opening& opening) {
        setenv("TVM_BIND_THREADS", "0", 0);
        return Library({opening.library, opening.found, {"libtvm_runtime.so"}, {"tvm/lib"}, cure(opening),
                        {"../../tvm_ffi/lib/libtvm_ffi.so"}});
    }

    explicit Runtime(const Opening& opening)
        : library_(load(opening)) {
#define EDGEKD_TVM(name) library_.take(api_.name, "TVMFFI" #name, "TVM runtime of version 0.22 or newer")
        EDGEKD_TVM(GetVersion);
        EDGEKD_TVM(FunctionGetGlobal);
        EDGEKD_TVM(FunctionCall);
        EDGEKD_TVM(ObjectDecRef);
        EDGEKD_TVM(TensorFromDLPack);
        EDGEKD_TVM(ErrorMoveFromRaised);
#undef EDGEKD_TVM
        // Kernels that raise look for this library's functions among what all libraries share; without it that ends the process.
        Dl_info about{};
        if (dladdr(reinterpret_cast<void*>(api_.ErrorMoveFromRaised), &about) != 0)
            dlopen(about.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
        tvm::Version found{};
        api_.GetVersion(&found);
        version_ = std::to_string(found.major) + '.' + std::to_string(found.minor) + '.' + std::to_string(found.patch);
    }

    Library library_;
    tvm::Api api_{};
    std::string version_;
};

// A reference to an object of TVM, given back at the end.
class Reference {
  public:
    explicit Reference(const Runtime& runtime, tvm::Object* object = nullptr) : runtime_(runtime), object_(object) {}
    Reference(const Reference&) = delete;
    Reference& operator=(const Reference&) = delete;
    ~Reference() { runtime_.release(object_); }

    tvm::Object* get() const noexcept { return object_; }
    // Take over what a call gave: a Failure unless it is an object of this type.
    void take(const tvm::Any& any, std::int32_t type, const char* what) {
        if (any.type >= tvm::kFirstObject) object_ = any.object;
        if (any.type != type) fail(EDGEKD_RUNTIME_FAILED, std::string("tvm refuses the engine: it has no ") + what);
    }

  private:
    const Runtime& runtime_;
    tvm::Object* object_;
};

tvm::Any whole(std::int64_t value) noexcept {
    tvm::Any any{};
    any.type = tvm::kInt;
    any.whole = value;
    return any;
}

tvm::Any text(const char* value) noexcept {
    tvm::Any any{};
    any.type = tvm::kRawText;
    any.text = value;
    return any;
}

tvm::Any object(tvm::Object* value) noexcept {
    tvm::Any any{};
    any.type = value->type;
    any.object = value;
    return any;
}

// One input: the app's memory, or a copy of it where that is not aligned.
class Input {
  public:
    explicit Input(const Runtime& runtime) : views_(runtime) {}

    tvm::Any of(const Tensor& tensor) {
        bool fresh = false;
        return object(views_.of(copy_.of(tensor, true), fresh));
    }

  private:
    Aligned copy_;
    Views<Runtime> views_;
};

class TvmSession final : public Session {
  public:
    TvmSession(const Runtime& runtime, const Opening& opening)
        : runtime_(runtime),
          configure_(runtime, runtime.global("runtime.config_threadpool")),
          file_(opening.bundle.engine_file),
          library_(runtime),
          machine_(runtime),
          main_(runtime) {
        constexpr const char* kRefuses = "refuses the engine";
        threads_ = threads_of(opening, opening.bundle.engine, "threads");
        const Reference load(runtime, runtime.global("ffi.Module.load_from_file.so"));
        const std::string path = file_.path();
        tvm::Any arguments[] = {text(path.c_str()), text("so")};
        library_.take(runtime.call(load.get(), arguments, 2, kRefuses), tvm::kModule, "module");
        Reference start(runtime);
        function(library_, "vm_load_executable", start);
        machine_.take(runtime.call(start.get(), nullptr, 0, kRefuses), tvm::kModule, "virtual machine");
        Reference prepare(runtime);
        function(machine_, "vm_initialization", prepare);
        tvm::Any device[] = {whole(kCpu), whole(0), whole(kPooled)};
        runtime.call(prepare.get(), device, 3, kRefuses);
        function(machine_, "main", main_);
        for (std::size_t i = 0; i < opening.bundle.signature.inputs.size(); ++i) inputs_.emplace_back(runtime);
        arguments_.resize(inputs_.size());
    }

    const char* version() const noexcept override { return runtime_.version(); }

    void run(const Call& call) override {
        constexpr const char* kCannot = "cannot run the engine";
        thread_local int configured = 0;  // TVM has a pool of threads for each thread that calls it
        if (configured != threads_) {
            // The list's length is how many the pool gets; without one it has half of x86's cores at most, and its items are not used.
            std::vector<tvm::Any> items(static_cast<std::size_t>(threads_), text("0"));
            const Reference make(runtime_, runtime_.global("ffi.Array"));
            const tvm::Any list = runtime_.call(make.get(), items.data(), items.size(), kCannot);
            const Reference held(runtime_, list.type >= tvm::kFirstObject ? list.object : nullptr);
            tvm::Any pool[] = {whole(kAnyCore), whole(threads_), list};
            runtime_.call(configure_.get(), pool, 3, kCannot);
            configured = threads_;
        }
        for (std::size_t i = 0; i < inputs_.size(); ++i) arguments_[i] = inputs_[i].of(call.inputs[i]);
        const tvm::Any made = runtime_.call(main_.get(), arguments_.data(), arguments_.size(), kCannot);
        const Reference held(runtime_, made.type >= tvm::kFirstObject ? made.object : nullptr);
        if (made.type == tvm::kTensor && call.outputs.size() == 1) return copy(made, call.outputs[0]);
        const tvm::Sequence* several = made.type == tvm::kArray ? &tvm::cell<tvm::Sequence>(made.object) : nullptr;
        if (several == nullptr || several->size != static_cast<std::int64_t>(call.outputs.size())) other();
        for (std::size_t i = 0; i < call.outputs.size(); ++i) copy(several->data[i], call.outputs[i]);
    }

  private:
    [[noreturn]] static void other() { fail(EDGEKD_DAMAGED, "bundle.json names other outputs than the engine has"); }

    static void copy(const tvm::Any& from, const Tensor& to) {
        if (from.type != tvm::kTensor) other();
        const auto& dense = tvm::cell<tvm::Dense>(from.object);
        tvm::Dense expected{};
        describe(expected, to.dtype);
        bool same = dense.rank == static_cast<std::int32_t>(to.rank) && dense.code == expected.code && dense.bits == expected.bits;
        for (std::size_t i = 0; same && i < to.rank; ++i) same = dense.shape[i] == to.shape[i];
        if (!same) other();
        std::memcpy(to.data, static_cast<const char*>(dense.data) + dense.offset, to.count * edgekd_dtype_bytes(to.dtype));
    }

    void function(const Reference& module, const char* name, Reference& found) const {
        const Reference get(runtime_, runtime_.global("ffi.ModuleGetFunction"));
        tvm::Any imports = whole(1);
        imports.type = tvm::kBool;
        tvm::Any arguments[] = {object(module.get()), text(name), imports};
        found.take(runtime_.call(get.get(), arguments, 3, "refuses the engine"), tvm::kFunction, name);
    }

    const Runtime& runtime_;
    Reference configure_;
    MemoryFile file_;    // what follows is let go first, the last first
    Reference library_;
    Reference machine_;
    Reference main_;
    std::deque<Input> inputs_;
    std::vector<tvm::Any> arguments_;
    int threads_ = 1;
};

std::unique_ptr<Session> open(const Opening& opening) {
    const Runtime& runtime = Runtime::get(opening);
    refuse_older(opening, kInterface, runtime.version(), runtime.path());
    return std::make_unique<TvmSession>(runtime, opening);
}

}  // namespace
}  // namespace edgekd::core

extern "C" {
EDGEKD_API extern const edgekd_runtime edgekd_tvm;
const edgekd_runtime edgekd_tvm = {"tvm", "EDGEKD_TVM_ROOT", edgekd::core::open};
}
