// direct.hpp: an engine run as an app would run it without edgekd: one session, tensors over its own buffers, made once.
#pragma once

#include "onnxruntime_api.hpp"
#include "openvino_api.hpp"

#include <edgekd/student.hpp>

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace ort = edgekd::core::ort;
namespace ov = edgekd::core::openvino;

[[noreturn]] inline void stop(const char* what) {
    std::fprintf(stderr, "error: %s\n", what);
    std::exit(1);
}

// What is run, and where: x goes in, y comes out, both of float32.
struct Task {
    std::string engine;   // folder
    std::string library;  // of the runtime
    edgekd::Port in, out;
    std::vector<float>&x, &y;

    std::string read(const char* file) const {
        std::ifstream stream(engine + '/' + file, std::ios::binary);
        return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    }
    void* open() const {
        void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (handle == nullptr) stop(dlerror());
        return handle;
    }
};

class Direct {
  public:
    virtual ~Direct() = default;
    virtual void run() = 0;
};

class DirectOnnxRuntime final : public Direct {
  public:
    explicit DirectOnnxRuntime(const Task& task) : names_{task.in.name, task.out.name} {
        const auto base = reinterpret_cast<const ort::Base* (*)()>(dlsym(task.open(), "OrtGetApiBase"));
        table_ = base()->get_api(ort::kVersion);
        const std::string model = task.read("model.onnx");
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
        good(at<ort::CreateTensorWithDataAsOrtValue>()(memory, task.x.data(), 4 * task.x.size(), task.in.shape, task.in.rank, 1, &in_));
        good(at<ort::CreateTensorWithDataAsOrtValue>()(memory, task.y.data(), 4 * task.y.size(), task.out.shape, task.out.rank, 1, &out_));
    }

    void run() override { good(at<ort::Run>()(session_, nullptr, &names_[0], &in_, 1, &names_[1], 1, &out_)); }

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

class DirectOpenVino final : public Direct {
  public:
    explicit DirectOpenVino(const Task& task) {
        void* handle = task.open();
        ov::each(api_, [&](auto& function, const char* name) {
            function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
        });
        const std::string xml = task.read("model.xml");
        weights_ = task.read("model.bin");
        std::int64_t size = static_cast<std::int64_t>(weights_.size());
        ov::Core* core = nullptr;
        ov::Model* model = nullptr;
        ov::CompiledModel* compiled = nullptr;
        ov::Tensor* weights = nullptr;
        constexpr int kUint8 = 16;
        good(api_.core_create(&core));
        good(api_.tensor_create_from_host_ptr(kUint8, {1, &size}, weights_.data(), &weights));
        good(api_.core_read_model_from_memory_buffer(core, xml.data(), xml.size(), weights, &model));
        good(api_.core_compile_model(core, model, "CPU", 10, &compiled, "PERFORMANCE_HINT", "LATENCY", "INFERENCE_PRECISION_HINT", "f32",
                                     "INFERENCE_NUM_THREADS", "1", "NUM_STREAMS", "1", "ENABLE_CPU_PINNING", "NO"));
        good(api_.compiled_model_create_infer_request(compiled, &request_));
        ov::Port *in = nullptr, *out = nullptr;
        good(api_.compiled_model_input_by_name(compiled, task.in.name, &in));
        good(api_.compiled_model_output_by_name(compiled, task.out.name, &out));
        bind(in, task.in, task.x.data());
        bind(out, task.out, task.y.data());
    }

    void run() override { good(api_.infer_request_infer(request_)); }

  private:
    void bind(ov::Port* port, const edgekd::Port& told, float* data) {
        std::vector<std::int64_t> shape(told.shape, told.shape + told.rank);
        ov::Tensor* tensor = nullptr;
        int type = 0;
        good(api_.port_get_element_type(port, &type));
        good(api_.tensor_create_from_host_ptr(type, {static_cast<std::int64_t>(told.rank), shape.data()}, data, &tensor));
        good(api_.infer_request_set_tensor_by_const_port(request_, port, tensor));
    }
    void good(ov::Status status) const {
        if (status != 0) stop(api_.get_last_err_msg());
    }

    ov::Api api_{};
    std::string weights_;
    ov::Request* request_ = nullptr;
};
