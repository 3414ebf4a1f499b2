// ONNX Runtime on the CPU. Its library is loaded at run time; its functions are those of onnxruntime_api.hpp.
#include "failure.hpp"
#include "library.hpp"
#include "onnxruntime_api.hpp"
#include "session.hpp"

#include <array>
#include <cstdio>
#include <deque>
#include <mutex>
#include <optional>

#ifdef EDGEKD_ONNXRUNTIME_LINKED  // the app links the runtime itself, as iOS asks: nothing is loaded
extern "C" const edgekd::core::ort::Base* OrtGetApiBase();
#endif

namespace edgekd::core {
namespace {

// The runtime's number for a type of element: ONNX's TensorProto.DataType.
int element_type(edgekd_dtype dtype) noexcept {
    switch (dtype) {
        case EDGEKD_FLOAT32: return 1;
        case EDGEKD_UINT8: return 2;
        case EDGEKD_INT8: return 3;
        case EDGEKD_UINT16: return 4;
        case EDGEKD_INT16: return 5;
        case EDGEKD_INT32: return 6;
        case EDGEKD_INT64: return 7;
        case EDGEKD_BOOL: return 9;
        case EDGEKD_FLOAT16: return 10;
        case EDGEKD_FLOAT64: return 11;
        case EDGEKD_UINT32: return 12;
        case EDGEKD_UINT64: return 13;
    }
    return 0;
}

// The loaded library: its table, its environment and the memory that apps pass in. Lives until the process ends.
class Runtime {
  public:
    // Loaded once: later sessions share the first one's library.
    static Runtime& get(const Opening& opening) {
        static std::mutex mutex;
        static Runtime* loaded = nullptr;
        const std::lock_guard<std::mutex> hold(mutex);
        if (loaded == nullptr) loaded = new Runtime(opening);
        return *loaded;
    }

    // A function of the table.
    template <class Function>
    typename Function::Pointer at() const noexcept {
        return Function::in(table_);
    }

    // Call a function that gives a status; a Failure has the runtime's words.
    template <class Function, class... Arguments>
    void call(const char* doing, Arguments... arguments) const {
        if (ort::Status* status = at<Function>()(arguments...)) {
            const std::string why = at<ort::GetErrorMessage>()(status);
            at<ort::ReleaseStatus>()(status);
            fail(EDGEKD_RUNTIME_FAILED, std::string("onnxruntime ") + doing + ": " + why);
        }
    }

    const char* version() const noexcept { return version_; }
    std::string path() const { return library_ ? library_->path() : "the ONNX Runtime in this program"; }
    const ort::Env* env() const noexcept { return env_; }
    const ort::MemoryInfo* memory() const noexcept { return memory_; }

  private:
    static std::string cure(const Opening& opening) {
        const Json* versions = opening.bundle.engine.find("versions");
        const Json* version = versions != nullptr ? versions->find("onnxruntime") : nullptr;
        return "pip install onnxruntime" + (version != nullptr ? "==" + version->text() : "") +
               " and run CMake again, or say in EDGEKD_ONNXRUNTIME_ROOT which folder holds libonnxruntime.so";
    }

    explicit Runtime(const Opening& opening) {
#ifdef EDGEKD_ONNXRUNTIME_LINKED
        const ort::Base* base = OrtGetApiBase();
#else
        library_.emplace(Places{opening.library, opening.found, "libonnxruntime.so", cure(opening)});
        const auto base_of = reinterpret_cast<const ort::Base* (*)()>(library_->find("OrtGetApiBase"));
        const ort::Base* base = base_of != nullptr ? base_of() : nullptr;
#endif
        table_ = base != nullptr ? base->get_api(ort::kVersion) : nullptr;
        if (table_ == nullptr)
            fail(EDGEKD_NO_RUNTIME, path() + " is no ONNX Runtime of version 1.5 or newer: " + cure(opening));
        version_ = base->get_version();
        call<ort::CreateEnv>("starts", ort::kLogFatal, "edgekd", &env_);
        call<ort::CreateCpuMemoryInfo>("starts", ort::kArenaAllocator, ort::kMemoryDefault, &memory_);
    }

    std::optional<Library> library_;
    const ort::Slot* table_ = nullptr;
    const char* version_ = "";
    ort::Env* env_ = nullptr;
    ort::MemoryInfo* memory_ = nullptr;
};

// Views of an app's buffers as the runtime wants them. The last few buffers of a port are remembered, so that calls with
// the same ones (one, or two in turns) make no new view; a view is an address and a shape, so it cannot grow stale.
class Views {
  public:
    explicit Views(const Runtime& runtime) : runtime_(runtime) {}
    Views(const Views&) = delete;
    Views& operator=(const Views&) = delete;
    ~Views() {
        for (const View& view : views_) runtime_.at<ort::ReleaseValue>()(view.value);
    }

    ort::Value* of(const Tensor& tensor) {
        for (const View& view : views_)
            if (view.value != nullptr && view.same(tensor)) return view.value;
        View& view = views_[next_];
        next_ = (next_ + 1) % views_.size();
        runtime_.at<ort::ReleaseValue>()(view.value);
        view.value = nullptr;
        runtime_.call<ort::CreateTensorWithDataAsOrtValue>(
            "cannot take a tensor", runtime_.memory(), tensor.data, tensor.count * edgekd_dtype_bytes(tensor.dtype),
            static_cast<const std::int64_t*>(tensor.shape), tensor.rank, element_type(tensor.dtype), &view.value);
        view.tensor = tensor;
        return view.value;
    }

  private:
    struct View {
        Tensor tensor;
        ort::Value* value = nullptr;

        bool same(const Tensor& other) const noexcept {
            if (tensor.data != other.data) return false;
            for (std::size_t i = 0; i < other.rank; ++i)
                if (tensor.shape[i] != other.shape[i]) return false;
            return true;
        }
    };

    const Runtime& runtime_;
    std::array<View, 4> views_{};
    std::size_t next_ = 0;
};

// One side of the model: names, views, and the values of the call at hand.
struct Side {
    Side(const Runtime& runtime, const std::vector<Port>& ports) : values(ports.size()) {
        for (const Port& port : ports) {
            names.push_back(port.name.c_str());
            views.emplace_back(runtime);
        }
    }

    void take(const std::vector<Tensor>& tensors) {
        for (std::size_t i = 0; i < tensors.size(); ++i) values[i] = views[i].of(tensors[i]);
    }

    std::vector<const char*> names;
    std::deque<Views> views;  // not moved: each owns what the runtime made
    std::vector<ort::Value*> values;
};

class OnnxRuntimeSession final : public Session {
  public:
    OnnxRuntimeSession(const Runtime& runtime, const Opening& opening)
        : runtime_(runtime),
          run_(runtime.at<ort::Run>()),
          inputs_(runtime, opening.bundle.signature.inputs),
          outputs_(runtime, opening.bundle.signature.outputs) {
        const Settings settings(runtime, opening);
        const Bytes model = opening.bundle.engine_file;
        runtime.call<ort::CreateSessionFromArray>("refuses the engine", runtime.env(), static_cast<const void*>(model.data),
                                                  model.size, static_cast<const ort::SessionOptions*>(settings.made), &session_);
        std::size_t counts[2] = {0, 0};
        try {
            runtime.call<ort::SessionGetInputCount>("", static_cast<const ort::Session*>(session_), &counts[0]);
            runtime.call<ort::SessionGetOutputCount>("", static_cast<const ort::Session*>(session_), &counts[1]);
            if (counts[0] != inputs_.names.size() || counts[1] != outputs_.names.size())
                fail(EDGEKD_DAMAGED, "bundle.json names other inputs and outputs than the engine has");
        } catch (...) {
            runtime.at<ort::ReleaseSession>()(session_);
            throw;
        }
    }
    ~OnnxRuntimeSession() override { runtime_.at<ort::ReleaseSession>()(session_); }

    const char* version() const noexcept override { return runtime_.version(); }

    void run(const Call& call) override {
        inputs_.take(call.inputs);
        outputs_.take(call.outputs);
        if (ort::Status* status = run_(session_, nullptr, inputs_.names.data(), inputs_.values.data(), inputs_.names.size(),
                                       outputs_.names.data(), outputs_.names.size(), outputs_.values.data())) {
            const std::string why = runtime_.at<ort::GetErrorMessage>()(status);
            runtime_.at<ort::ReleaseStatus>()(status);
            fail(EDGEKD_RUNTIME_FAILED, "onnxruntime cannot run the engine: " + why);
        }
    }

  private:
    // The options that the engine was compiled and measured with, as engine.json holds them.
    struct Settings {
        Settings(const Runtime& runtime, const Opening& opening) : from(runtime) {
            const Json& options = opening.bundle.engine.at("options");
            const int intra = opening.threads > 0 ? opening.threads : static_cast<int>(options.at("intra_op_num_threads").integer());
            const int inter = static_cast<int>(options.at("inter_op_num_threads").integer());
            constexpr const char* kDoing = "refuses an option";
            runtime.call<ort::CreateSessionOptions>(kDoing, &made);
            try {
                runtime.call<ort::SetSessionLogSeverityLevel>(kDoing, made, ort::kLogFatal);
                runtime.call<ort::SetIntraOpNumThreads>(kDoing, made, intra);
                runtime.call<ort::SetInterOpNumThreads>(kDoing, made, inter);
                if (!options.at("enable_cpu_mem_arena").boolean()) runtime.call<ort::DisableCpuMemArena>(kDoing, made);
                if (!options.at("enable_mem_pattern").boolean()) runtime.call<ort::DisableMemPattern>(kDoing, made);
                for (const auto& [key, value] : options.at("entries").members())
                    runtime.call<ort::AddSessionConfigEntry>(kDoing, made, key.c_str(), value.text().c_str());
            } catch (...) {
                runtime.at<ort::ReleaseSessionOptions>()(made);
                throw;
            }
        }
        Settings(const Settings&) = delete;
        Settings& operator=(const Settings&) = delete;
        ~Settings() { from.at<ort::ReleaseSessionOptions>()(made); }

        const Runtime& from;
        ort::SessionOptions* made = nullptr;
    };

    const Runtime& runtime_;
    ort::Run::Pointer run_;
    Side inputs_;
    Side outputs_;
    ort::Session* session_ = nullptr;
};

// Major and minor of "1.31.1"; {0, 0} for what is no version.
std::array<int, 2> minor_version(const char* text) noexcept {
    std::array<int, 2> found{0, 0};
    if (std::sscanf(text, "%d.%d", &found[0], &found[1]) != 2) return {0, 0};
    return found;
}

std::unique_ptr<Session> open(const Opening& opening) {
    const Runtime& runtime = Runtime::get(opening);
    const Json* versions = opening.bundle.engine.find("versions");
    const Json* compiled = versions != nullptr ? versions->find("onnxruntime") : nullptr;
    if (compiled != nullptr && !opening.any_version && minor_version(runtime.version()) < minor_version(compiled->text().c_str()))
        fail(EDGEKD_OTHER_RUNTIME, "the bundle was compiled with onnxruntime " + compiled->text() + "; " + runtime.path() + " is " +
                                       runtime.version() + ": pip install onnxruntime==" + compiled->text() +
                                       ", or compile the bundle again with the older one: edgekd compile recipe.toml");
    return std::make_unique<OnnxRuntimeSession>(runtime, opening);
}

}  // namespace
}  // namespace edgekd::core

extern "C" {
EDGEKD_API extern const edgekd_runtime edgekd_onnxruntime;
const edgekd_runtime edgekd_onnxruntime = {"onnxruntime", "EDGEKD_ONNXRUNTIME_ROOT", edgekd::core::open};
}
