// OpenVINO on the CPU. Its C library is loaded at run time; its functions are those of openvino_api.hpp.
//
// The app's buffers are the request's own tensors: nothing is copied here, and a tensor is only handed over when a call brings
// other buffers than the last. What the CPU plugin allocates inside infer() is its own.
#include "failure.hpp"
#include "library.hpp"
#include "openvino_api.hpp"
#include "runtime_version.hpp"
#include "session.hpp"
#include "views.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

namespace edgekd::core {
namespace {

namespace ov = openvino;

constexpr const char* kPackage = "openvino";
constexpr std::size_t kMostOptions = 8;
constexpr int kUint8 = 16;

// The runtime's number for a type of element: ov_element_type_e since 2025.
int element_type(edgekd_dtype dtype) noexcept {
    switch (dtype) {
        case EDGEKD_BOOL: return 1;
        case EDGEKD_FLOAT16: return 3;
        case EDGEKD_FLOAT32: return 4;
        case EDGEKD_FLOAT64: return 5;
        case EDGEKD_INT8: return 7;
        case EDGEKD_INT16: return 8;
        case EDGEKD_INT32: return 9;
        case EDGEKD_INT64: return 10;
        case EDGEKD_UINT8: return kUint8;
        case EDGEKD_UINT16: return 17;
        case EDGEKD_UINT32: return 18;
        case EDGEKD_UINT64: return 19;
    }
    return -1;
}

// What an exception of OpenVINO says, without the places in its sources and the advice behind it.
std::string said(const char* message) {
    std::string found;
    for (const char* at = message; at != nullptr && *at != '\0';) {
        const std::size_t size = std::strcspn(at, "\n");
        const std::string line(at, size);
        bool kept = line.find_first_not_of(" \t\r") != std::string::npos;
        for (const char* place : {"Exception from", "Check ", "To facilitate"}) kept = kept && line.compare(0, std::strlen(place), place) != 0;
        if (kept) found += (found.empty() ? "" : " ") + line;
        at += size + (at[size] == '\n' ? 1 : 0);
    }
    return found;
}

// The loaded library and its core. Lives until the process ends: OpenVINO's threads and plugins do so, too.
class Runtime {
  public:
    using View = ov::Tensor*;

    // Loaded once: later sessions share the first one's library.
    static Runtime& get(const Opening& opening) {
        static std::mutex mutex;
        static Runtime* loaded = nullptr;
        const std::lock_guard<std::mutex> hold(mutex);
        if (loaded == nullptr) loaded = new Runtime(opening);
        return *loaded;
    }

    const ov::Api& api() const noexcept { return api_; }
    const ov::Core* core() const noexcept { return core_; }
    const char* version() const noexcept { return version_.c_str(); }
    const std::string& path() const noexcept { return library_.path(); }

    // A Failure with the runtime's words unless `status` is good.
    void good(ov::Status status, const char* doing) const {
        if (status == 0) return;
        const char* message = api_.get_last_err_msg();
        std::string why = said(message);
        api_.free(message);
        if (why.empty()) why = api_.get_error_info(status);
        fail(EDGEKD_RUNTIME_FAILED, std::string("openvino ") + doing + ": " + why);
    }

    View make(const Tensor& tensor) const {
        View made = nullptr;
        std::int64_t sizes[kMostDimensions];
        std::copy(tensor.shape, tensor.shape + tensor.rank, sizes);
        good(api_.tensor_create_from_host_ptr(element_type(tensor.dtype), {static_cast<std::int64_t>(tensor.rank), sizes},
                                              tensor.data, &made),
             "cannot take a tensor");
        return made;
    }
    void release(View view) const noexcept {
        if (view != nullptr) api_.tensor_free(view);
    }

    // Bytes in a tensor of the runtime's own, which counts who still looks at them.
    View own(const Bytes& bytes) const {
        View made = nullptr;
        void* data = nullptr;
        std::int64_t size = static_cast<std::int64_t>(bytes.size);
        good(api_.tensor_create(kUint8, {1, &size}, &made), "cannot take the weights");
        const ov::Status status = api_.tensor_data(made, &data);
        if (status != 0) release(made);
        good(status, "cannot take the weights");
        if (bytes.size != 0) std::memcpy(data, bytes.data, bytes.size);
        return made;
    }

  private:
    static std::string cure(const Opening& opening) {
        return install(opening, kPackage) + " and run CMake again, or say in EDGEKD_OPENVINO_ROOT which folder holds libopenvino_c.so";
    }

    // libopenvino_c.so.2641 is the library of 2026.4.1: an installed one has this name, and a development package the short one.
    static std::vector<std::string> names(const Opening& opening) {
        std::string digits;
        for (const char c : compiled_with(opening, kPackage))
            if (c >= '0' && c <= '9') digits += c;
        std::vector<std::string> found;
        if (digits.size() > 2) found.push_back("libopenvino_c.so." + digits.substr(2));
        found.emplace_back("libopenvino_c.so");
        return found;
    }

    explicit Runtime(const Opening& opening)
        : library_({opening.library, opening.found, names(opening),
                    {"libs", "openvino/libs", "runtime/lib/intel64", "runtime/lib/aarch64"}, cure(opening)}) {
        const std::string should_be = "OpenVINO of version 2025.1 or newer";
        ov::each(api_, [&](auto& function, const char* name) { library_.take(function, name, should_be.c_str()); });
        ov::Version version{};
        good(api_.get_openvino_version(&version), "starts");
        version_ = version.build != nullptr ? version.build : "";
        api_.version_free(&version);
        for (const edgekd_dtype dtype : {EDGEKD_BOOL, EDGEKD_FLOAT16, EDGEKD_FLOAT64, EDGEKD_INT32, EDGEKD_UINT8, EDGEKD_UINT64})
            if (bytes_of_one(element_type(dtype)) != edgekd_dtype_bytes(dtype))
                fail(EDGEKD_NO_RUNTIME, path() + " (" + version_ + ") is no " + should_be + ": " + cure(opening));
        good(api_.core_create(&core_), "starts");
    }

    // Older versions numbered their types otherwise.
    std::size_t bytes_of_one(int type) const noexcept {
        std::int64_t one = 1;
        std::size_t bytes = 0;
        View made = nullptr;
        if (api_.tensor_create(type, {1, &one}, &made) != 0) return 0;
        api_.tensor_get_byte_size(made, &bytes);
        release(made);
        return bytes;
    }

    Library library_;
    ov::Api api_{};
    std::string version_;
    ov::Core* core_ = nullptr;
};

// Something that the runtime made, given back at the end.
template <class T>
class Owned {
  public:
    explicit Owned(void (*release)(T*)) : release_(release) {}
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
    ~Owned() {
        if (made_ != nullptr) release_(made_);
    }

    T* get() const noexcept { return made_; }
    T** out() noexcept { return &made_; }

  private:
    void (*release_)(T*);
    T* made_ = nullptr;
};

// One input or output of the model, and the tensor that its request has at present.
class Bound {
  public:
    using Find = ov::Status (*)(const ov::CompiledModel*, const char*, ov::Port**);

    Bound(const Runtime& runtime, const ov::CompiledModel* model, Find find, const Port& port)
        : runtime_(runtime), port_(runtime.api().output_const_port_free), views_(runtime) {
        int type = -1;
        if (find(model, port.name.c_str(), port_.out()) != 0 || runtime.api().port_get_element_type(port_.get(), &type) != 0 ||
            type != element_type(port.dtype))
            fail(EDGEKD_DAMAGED, "bundle.json names \"" + port.name + "\" of " + edgekd_dtype_name(port.dtype) +
                                     ", which the engine does not have");
    }

    void take(ov::Request* request, const Tensor& tensor) {
        bool fresh = false;
        ov::Tensor* view = views_.of(tensor, fresh);
        if (!fresh && view == set_) return;
        set_ = nullptr;
        runtime_.good(runtime_.api().infer_request_set_tensor_by_const_port(request, port_.get(), view), "cannot take a tensor");
        set_ = view;
    }

  private:
    const Runtime& runtime_;
    Owned<ov::Port> port_;
    Views<Runtime> views_;
    ov::Tensor* set_ = nullptr;
};

class OpenVinoSession final : public Session {
  public:
    OpenVinoSession(const Runtime& runtime, const Opening& opening)
        : runtime_(runtime), model_(runtime.api().compiled_model_free), request_(runtime.api().infer_request_free) {
        compile(opening);
        const ov::Api& api = runtime.api();
        const Signature& signature = opening.bundle.signature;
        std::size_t inputs = 0;
        std::size_t outputs = 0;
        runtime.good(api.compiled_model_inputs_size(model_.get(), &inputs), "refuses the engine");
        runtime.good(api.compiled_model_outputs_size(model_.get(), &outputs), "refuses the engine");
        if (inputs != signature.inputs.size() || outputs != signature.outputs.size())
            fail(EDGEKD_DAMAGED, "bundle.json names other inputs and outputs than the engine has");
        for (const Port& port : signature.inputs) inputs_.emplace_back(runtime, model_.get(), api.compiled_model_input_by_name, port);
        for (const Port& port : signature.outputs) outputs_.emplace_back(runtime, model_.get(), api.compiled_model_output_by_name, port);
        runtime.good(api.compiled_model_create_infer_request(model_.get(), request_.out()), "refuses the engine");
    }

    const char* version() const noexcept override { return runtime_.version(); }

    void run(const Call& call) override {
        for (std::size_t i = 0; i < inputs_.size(); ++i) inputs_[i].take(request_.get(), call.inputs[i]);
        for (std::size_t i = 0; i < outputs_.size(); ++i) outputs_[i].take(request_.get(), call.outputs[i]);
        runtime_.good(runtime_.api().infer_request_infer(request_.get()), "cannot run the engine");
    }

  private:
    // With the options that the engine was compiled and measured with, as engine.json holds them.
    void compile(const Opening& opening) {
        const auto& options = opening.bundle.engine.at("options").members();
        if (options.size() > kMostOptions) fail(EDGEKD_DAMAGED, "engine.json has more than 8 options");
        const std::string threads = std::to_string(opening.threads);
        std::array<const char*, 2 * kMostOptions> texts{};
        std::size_t count = 0;
        for (const auto& [key, value] : options) {
            texts[count++] = key.c_str();
            texts[count++] = key == "INFERENCE_NUM_THREADS" && opening.threads > 0 ? threads.c_str() : value.text().c_str();
        }
        std::string weights_path = "engine/" + opening.bundle.engine.at("file").text();
        weights_path.replace(weights_path.rfind('.') + 1, std::string::npos, "bin");
        const Bytes* weights_file = opening.files.find(weights_path);
        if (weights_file == nullptr) fail(EDGEKD_DAMAGED, weights_path + " is missing; copy or compile the bundle again");
        const ov::Api& api = runtime_.api();
        Owned<ov::Tensor> weights(api.tensor_free);
        Owned<ov::Model> model(api.model_free);
        *weights.out() = runtime_.own(*weights_file);
        const std::string_view xml = opening.bundle.engine_file.text();
        runtime_.good(api.core_read_model_from_memory_buffer(runtime_.core(), xml.data(), xml.size(), weights.get(), model.out()),
                      "refuses the engine");
        // `count` says how many of the texts are read.
        runtime_.good(api.core_compile_model(runtime_.core(), model.get(), "CPU", count, model_.out(), texts[0], texts[1], texts[2],
                                             texts[3], texts[4], texts[5], texts[6], texts[7], texts[8], texts[9], texts[10],
                                             texts[11], texts[12], texts[13], texts[14], texts[15]),
                      "refuses the engine");
    }

    const Runtime& runtime_;
    Owned<ov::CompiledModel> model_;
    Owned<ov::Request> request_;
    std::deque<Bound> inputs_;  // not moved: each owns what the runtime made
    std::deque<Bound> outputs_;
};

std::unique_ptr<Session> open(const Opening& opening) {
    const Runtime& runtime = Runtime::get(opening);
    refuse_older(opening, kPackage, runtime.version(), runtime.path());
    return std::make_unique<OpenVinoSession>(runtime, opening);
}

}  // namespace
}  // namespace edgekd::core

extern "C" {
EDGEKD_API extern const edgekd_runtime edgekd_openvino;
const edgekd_runtime edgekd_openvino = {"openvino", "EDGEKD_OPENVINO_ROOT", edgekd::core::open};
}
