// LiteRT on the CPU, by XNNPACK. Its library is loaded at run time; its functions are those of litert_api.hpp.
//
// LiteRT takes memory on a multiple of 64 bytes only: buffers that lie so are lent, others are copied to and from such a place.
// It logs to stderr when it starts, and has no function to stop that.
#include "aligned.hpp"
#include "failure.hpp"
#include "library.hpp"
#include "litert_api.hpp"
#include "runtime_version.hpp"
#include "session.hpp"
#include "views.hpp"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

namespace edgekd::core {
namespace {

constexpr const char* kPackage = "ai-edge-litert";

// The runtime's number for a type of element: LiteRtElementType.
std::int32_t element_type(edgekd_dtype dtype) noexcept {
    switch (dtype) {
        case EDGEKD_FLOAT32: return 1;
        case EDGEKD_INT32: return 2;
        case EDGEKD_UINT8: return 3;
        case EDGEKD_INT64: return 4;
        case EDGEKD_BOOL: return 6;
        case EDGEKD_INT16: return 7;
        case EDGEKD_INT8: return 9;
        case EDGEKD_FLOAT16: return 10;
        case EDGEKD_FLOAT64: return 11;
        case EDGEKD_UINT64: return 13;
        case EDGEKD_UINT32: return 16;
        case EDGEKD_UINT16: return 17;
    }
    return 0;
}

// The loaded library and its environment. Lives until the process ends.
class Runtime {
  public:
    static Runtime& get(const Opening& opening) {
        static std::mutex mutex;
        static Runtime* loaded = nullptr;
        const std::lock_guard<std::mutex> hold(mutex);
        if (loaded == nullptr) loaded = new Runtime(opening);
        return *loaded;
    }

    const litert::Api& api() const noexcept { return api_; }
    litert::Environment* environment() const noexcept { return environment_; }

    // A Failure unless `status` is good. LiteRT has numbers for its reasons and logs the words.
    static void good(litert::Status status, const char* doing) {
        if (status == 0) return;
        const char* why = status == 1 ? "invalid argument" : status == 501 ? "no flatbuffer of a model" : status == 504 ? "compilation" : "";
        fail(EDGEKD_RUNTIME_FAILED, std::string("litert ") + doing + ": its status " + std::to_string(status) +
                                        (*why != '\0' ? std::string(" (") + why + ')' : "") + "; its log on stderr says more");
    }

  private:
    explicit Runtime(const Opening& opening)
        : library_({opening.library, opening.found, {"libLiteRt.so"}, {"ai_edge_litert"}, cure(opening)}) {
        litert::each(api_, [&](auto& function, const char* name) { library_.take(function, name, "LiteRT of version 2.3 or newer"); });
        good(api_.CreateEnvironment(0, nullptr, &environment_), "starts");
    }
    static std::string cure(const Opening& opening) {
        return install(opening, kPackage) + " and run CMake again, or say in EDGEKD_LITERT_ROOT which folder holds libLiteRt.so";
    }

    Library library_;
    litert::Api api_{};
    litert::Environment* environment_ = nullptr;
};

// One input or output of the model's first signature.
class Bound {
  public:
    using View = litert::Buffer*;

    Bound(const Runtime& runtime, litert::Tensor* tensor, const Port& port, std::size_t place)
        : place(place), runtime_(runtime), views_(*this) {
        bool same = tensor != nullptr && runtime.api().GetRankedTensorType(tensor, &type_) == 0 &&
                    type_.element == element_type(port.dtype) && type_.dimensions() == port.shape.size();
        for (std::size_t i = 0; same && i < port.shape.size(); ++i) same = type_.sizes[i] == port.shape[i];
        if (!same)
            fail(EDGEKD_DAMAGED, "bundle.json names \"" + port.name + "\" of " + edgekd_dtype_name(port.dtype) +
                                     ", which the engine does not have in this shape");
    }

    // The runtime's buffer over a tensor, or over a place that it takes.
    View of(const Tensor& tensor, bool values) {
        bool fresh = false;
        return views_.of(copy_.of(tensor, values), fresh);
    }
    // What was written to that place.
    void take(const Tensor& tensor) {
        if (!Aligned::is(tensor.data)) std::memcpy(tensor.data, copy_.place(Aligned::bytes(tensor)), Aligned::bytes(tensor));
    }

    View make(const Tensor& tensor) const {
        View made = nullptr;
        Runtime::good(runtime_.api().CreateTensorBufferFromHostMemory(&type_, tensor.data, Aligned::bytes(tensor), nullptr, &made),
                      "cannot take a tensor");
        return made;
    }
    void release(View view) const noexcept {
        if (view != nullptr) runtime_.api().DestroyTensorBuffer(view);
    }

    const std::size_t place;  // among those of its side

  private:
    const Runtime& runtime_;
    litert::Type type_{};
    Aligned copy_;
    Views<Bound> views_;
};

class LiteRtSession final : public Session {
  public:
    LiteRtSession(const Runtime& runtime, const Opening& opening) : runtime_(runtime) {
        try {
            open(opening);
        } catch (...) {
            close();
            throw;
        }
    }
    ~LiteRtSession() override { close(); }

    const char* version() const noexcept override { return "2.3 or newer"; }  // the library does not say

    void run(const Call& call) override {
        for (std::size_t i = 0; i < inputs_.size(); ++i) given_[inputs_[i].place] = inputs_[i].of(call.inputs[i], true);
        for (std::size_t i = 0; i < outputs_.size(); ++i) taken_[outputs_[i].place] = outputs_[i].of(call.outputs[i], false);
        Runtime::good(runtime_.api().RunCompiledModel(compiled_, 0, given_.size(), given_.data(), taken_.size(), taken_.data()),
                      "cannot run the engine");
        for (std::size_t i = 0; i < outputs_.size(); ++i) outputs_[i].take(call.outputs[i]);
    }

  private:
    void open(const Opening& opening) {
        constexpr const char* kRefuses = "refuses the engine";
        const litert::Api& api = runtime_.api();
        const Bytes file = opening.bundle.engine_file;
        void* bytes = bytes_.place(file.size);  // LiteRT reads them as long as the model lives
        if (file.size != 0) std::memcpy(bytes, file.data, file.size);
        Runtime::good(api.CreateModelFromBuffer(runtime_.environment(), bytes, file.size, &model_), kRefuses);
        Runtime::good(api.CreateOptions(&options_), kRefuses);
        Runtime::good(api.SetOptionsHardwareAccelerators(options_, litert::kCpu), kRefuses);
        const int threads = threads_of(opening, opening.bundle.engine, "threads");
        const std::string text = "num_threads = " + std::to_string(threads > 0 ? threads : 1) + '\n';  // TOML, as LiteRT itself writes it
        litert::OpaqueOptions* cpu = nullptr;
        Runtime::good(api.CreateOpaqueOptions("xnnpack", strdup(text.c_str()), std::free, &cpu), kRefuses);
        if (const litert::Status status = api.AddOpaqueOptions(options_, cpu); status != 0) {
            api.DestroyOpaqueOptions(cpu);
            Runtime::good(status, kRefuses);
        }
        Runtime::good(api.CreateCompiledModel(runtime_.environment(), model_, options_, &compiled_), kRefuses);
        litert::Signature* found = nullptr;
        Runtime::good(api.GetModelSignature(model_, 0, &found), kRefuses);
        const Signature& signature = opening.bundle.signature;
        bind(found, signature.inputs, {api.GetNumSignatureInputs, api.GetSignatureInputName, api.GetSignatureInputTensorByIndex}, inputs_);
        bind(found, signature.outputs, {api.GetNumSignatureOutputs, api.GetSignatureOutputName, api.GetSignatureOutputTensorByIndex},
             outputs_);
        given_.resize(inputs_.size());
        taken_.resize(outputs_.size());
    }

    // How one side of a signature is looked at.
    struct Side {
        decltype(litert::Api::GetNumSignatureInputs) count;
        decltype(litert::Api::GetSignatureInputName) name;
        decltype(litert::Api::GetSignatureInputTensorByIndex) tensor;
    };

    // Each port by its name; the model has them in an order of its own, in which a call hands the buffers over.
    void bind(litert::Signature* found, const std::vector<Port>& ports, const Side& side, std::deque<Bound>& bound) {
        std::size_t count = 0;
        Runtime::good(side.count(found, &count), "refuses the engine");
        if (count != ports.size()) fail(EDGEKD_DAMAGED, "bundle.json names other inputs and outputs than the engine has");
        for (const Port& port : ports) {
            litert::Tensor* tensor = nullptr;
            std::size_t place = 0;
            for (; place < count && tensor == nullptr; ++place) {
                const char* name = nullptr;
                if (side.name(found, place, &name) == 0 && name != nullptr && port.name == name) (void)side.tensor(found, place, &tensor);
            }
            bound.emplace_back(runtime_, tensor, port, place - 1);
        }
    }

    // The last made first.
    void close() noexcept {
        const litert::Api& api = runtime_.api();
        inputs_.clear();
        outputs_.clear();
        if (compiled_ != nullptr) api.DestroyCompiledModel(compiled_);
        if (options_ != nullptr) api.DestroyOptions(options_);
        if (model_ != nullptr) api.DestroyModel(model_);
    }

    const Runtime& runtime_;
    Aligned bytes_;
    litert::Model* model_ = nullptr;
    litert::Options* options_ = nullptr;
    litert::Compiled* compiled_ = nullptr;
    std::deque<Bound> inputs_;  // not moved: each owns what the runtime made
    std::deque<Bound> outputs_;
    std::vector<litert::Buffer*> given_;
    std::vector<litert::Buffer*> taken_;
};

std::unique_ptr<Session> open(const Opening& opening) {
    return std::make_unique<LiteRtSession>(Runtime::get(opening), opening);
}

}  // namespace
}  // namespace edgekd::core

extern "C" {
EDGEKD_API extern const edgekd_runtime edgekd_litert;
const edgekd_runtime edgekd_litert = {"litert", "EDGEKD_LITERT_ROOT", edgekd::core::open};
}
