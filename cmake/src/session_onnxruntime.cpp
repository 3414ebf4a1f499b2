// ONNX Runtime on the CPU. Its library is loaded at run time; its functions are those of onnxruntime_api.hpp.
#include "failure.hpp"
#include "library.hpp"
#include "onnxruntime_api.hpp"
#include "runtime_version.hpp"
#include "session.hpp"
#include "views.hpp"

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
    using View = ort::Value*;

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
    View make(const Tensor& tensor) const {
        View made = nullptr;
        call<ort::CreateTensorWithDataAsOrtValue>("cannot take a tensor", static_cast<const ort::MemoryInfo*>(memory_), tensor.data,
                                                  tensor.count * edgekd_dtype_bytes(tensor.dtype),
                                                  static_cast<const std::int64_t*>(tensor.shape), tensor.rank,
                                                  element_type(tensor.dtype), &made);
        return made;
    }
    void release(View view) const noexcept { at<ort::ReleaseValue>()(view); }

  private:
    static std::string cure(const Opening& opening) {
        return install(opening, "onnxruntime") +
               " and run CMake again, or say in EDGEKD_ONNXRUNTIME_ROOT which folder holds libonnxruntime.so";
    }

    explicit Runtime(const Opening& opening) {
#ifdef EDGEKD_ONNXRUNTIME_LINKED
        const ort::Base* base = OrtGetApiBase();
#else
        library_.emplace(Places{opening.library, opening.found, {"libonnxruntime.so.1", "libonnxruntime.so"},
                                {"capi", "onnxruntime/capi"}, cure(opening)});
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

// One side of the model: names, views, and the values of the call at hand.
struct Side {
    Side(const Runtime& runtime, const std::vector<Port>& ports) : values(ports.size()) {
        for (const Port& port : ports) {
            names.push_back(port.name.c_str());
            views.emplace_back(runtime);
        }
    }

    void take(const std::vector<Tensor>& tensors) {
        bool fresh = false;
        for (std::size_t i = 0; i < tensors.size(); ++i) values[i] = views[i].of(tensors[i], fresh);
    }

    std::vector<const char*> names;
    std::deque<Views<Runtime>> views;  // not moved: each owns what the runtime made
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
            const int intra = threads_of(opening, options, "intra_op_num_threads");
            const int inter = threads_said(options, "inter_op_num_threads");
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

std::unique_ptr<Session> open(const Opening& opening) {
    const Runtime& runtime = Runtime::get(opening);
    refuse_older(opening, "onnxruntime", runtime.version(), runtime.path());
    return std::make_unique<OnnxRuntimeSession>(runtime, opening);
}

}  // namespace
}  // namespace edgekd::core

extern "C" {
EDGEKD_API extern const edgekd_runtime edgekd_onnxruntime;
const edgekd_runtime edgekd_onnxruntime = {"onnxruntime", "EDGEKD_ONNXRUNTIME_ROOT", edgekd::core::open};
}
