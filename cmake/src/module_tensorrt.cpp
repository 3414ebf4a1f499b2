// The module of TensorRT: one execution context on one stream, a buffer on the GPU for each port.
//
// It is compiled against TensorRT's headers and links nothing: TensorRT's library, and CUDA's runtime, are loaded when a student
// is opened, so that an app is built where the headers are. A call copies its inputs to the GPU and its outputs back; the
// copies and the computation are queued on one stream and waited for together. Buffers are made once.
//
// Source: NVIDIA TensorRT, C++ API: IRuntime, ICudaEngine, IExecutionContext::enqueueV3; CUDA runtime API.
#include "module.hpp"

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#define EDGEKD_TEXT_OF(value) #value
#define EDGEKD_TEXT(value) EDGEKD_TEXT_OF(value)
#define EDGEKD_TENSORRT_VERSION \
    EDGEKD_TEXT(NV_TENSORRT_MAJOR) "." EDGEKD_TEXT(NV_TENSORRT_MINOR) "." EDGEKD_TEXT(NV_TENSORRT_PATCH)
#ifndef EDGEKD_NVINFER  // the library that CMake found, where the user said in which folder
#define EDGEKD_NVINFER ""
#endif

static_assert(NV_TENSORRT_MAJOR >= 10, "TensorRT 10 or newer is needed: on a Jetson, JetPack 6.1 has 10.3");

namespace {

namespace trt = nvinfer1;
using edgekd::core::fail;
using edgekd::core::Tensor;
using edgekd::module::Engine;

// The first library of these names or paths that loads. It stays loaded until the process ends.
void* loaded(const char* what, std::initializer_list<const char*> names) {
    std::string tried;
    for (const char* name : names) {
        if (*name == '\0') continue;
        if (void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return handle;
        const char* why = dlerror();
        tried += (tried.empty() ? "" : "; ") + std::string(why != nullptr ? why : name);
    }
    fail(EDGEKD_NO_RUNTIME, std::string(what) + " cannot be loaded (" + tried + "): on a Jetson, sudo apt-get install nvidia-jetpack");
}

template <class Function>
void take(void* library, Function*& function, const char* name) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    if (function == nullptr) fail(EDGEKD_NO_RUNTIME, std::string("the library has no ") + name + ": is it of another version?");
}

// What is called of CUDA's runtime. Its ABI holds within a major version.
struct Cuda {
    static const Cuda& get() {
        static const Cuda* one = new Cuda;
        return *one;
    }

    Cuda() {
        constexpr const char* kVersioned = CUDART_VERSION >= 13000 ? "libcudart.so.13" : CUDART_VERSION >= 12000 ? "libcudart.so.12" : "libcudart.so.11.0";
        void* library = loaded("CUDA's runtime", {kVersioned, "/usr/local/cuda/lib64/libcudart.so", "libcudart.so"});
        take(library, allocate, "cudaMalloc");
        take(library, release, "cudaFree");
        take(library, copy, "cudaMemcpyAsync");
        take(library, make_stream, "cudaStreamCreateWithFlags");
        take(library, wait, "cudaStreamSynchronize");
        take(library, end_stream, "cudaStreamDestroy");
        take(library, text, "cudaGetErrorString");
    }

    void good(cudaError_t error, const char* doing) const {
        if (error != cudaSuccess) fail(EDGEKD_RUNTIME_FAILED, std::string("CUDA ") + doing + ": " + text(error));
    }

    cudaError_t (*allocate)(void**, std::size_t) = nullptr;
    decltype(&cudaFree) release = nullptr;
    decltype(&cudaMemcpyAsync) copy = nullptr;
    decltype(&cudaStreamCreateWithFlags) make_stream = nullptr;
    decltype(&cudaStreamSynchronize) wait = nullptr;
    decltype(&cudaStreamDestroy) end_stream = nullptr;
    decltype(&cudaGetErrorString) text = nullptr;
};

// Keeps TensorRT's errors, which it says to a log only; the rest is not told. TensorRT may call it from any thread.
class Log final : public trt::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity > Severity::kERROR) return;
        const std::lock_guard<std::mutex> hold(mutex_);
        std::strncpy(said_, message, sizeof said_ - 1);
    }

    // The last error since this was asked before.
    std::string error() {
        const std::lock_guard<std::mutex> hold(mutex_);
        std::string said = said_;
        std::memset(said_, 0, sizeof said_);
        while (!said.empty() && said.back() == '\n') said.pop_back();
        return said.empty() ? "it gives no reason" : said;
    }

  private:
    std::mutex mutex_;
    char said_[512] = {};
};

// TensorRT's library, its log and its runtime: one a process, as its log must outlive all that was made with it.
struct Runtime {
    static Runtime& get() {
        static Runtime* one = new Runtime;
        return *one;
    }

    Runtime() {
        void* library = loaded("TensorRT", {EDGEKD_NVINFER, "libnvinfer.so." EDGEKD_TEXT(NV_TENSORRT_MAJOR), "libnvinfer.so"});
        void* (*make)(void*, std::int32_t) = nullptr;
        take(library, make, "createInferRuntime_INTERNAL");
        // A logger by its own address: the class has one base, and TensorRT casts it back to that.
        runtime.reset(static_cast<trt::IRuntime*>(make(static_cast<trt::ILogger*>(&log), NV_TENSORRT_VERSION)));
        if (runtime == nullptr) fail(EDGEKD_RUNTIME_FAILED, "TensorRT " EDGEKD_TENSORRT_VERSION " cannot start: " + log.error());
    }

    Log log;
    std::unique_ptr<trt::IRuntime> runtime;
};

struct Element {
    trt::DataType type;
    std::size_t bytes;
};

Element element_of(edgekd_dtype dtype) {
    switch (dtype) {
        case EDGEKD_FLOAT32: return {trt::DataType::kFLOAT, 4};
        case EDGEKD_FLOAT16: return {trt::DataType::kHALF, 2};
        case EDGEKD_INT8: return {trt::DataType::kINT8, 1};
        case EDGEKD_UINT8: return {trt::DataType::kUINT8, 1};
        case EDGEKD_INT32: return {trt::DataType::kINT32, 4};
        case EDGEKD_INT64: return {trt::DataType::kINT64, 8};
        case EDGEKD_BOOL: return {trt::DataType::kBOOL, 1};
        default: fail(EDGEKD_DAMAGED, "bundle.json: TensorRT knows no such dtype");
    }
}

// Memory on the GPU for one port.
class Buffer {
  public:
    Buffer(const Cuda& cuda, std::size_t bytes) : cuda_(cuda), bytes_(bytes) { cuda.good(cuda.allocate(&data_, bytes), "has no memory"); }
    Buffer(Buffer&& other) noexcept : cuda_(other.cuda_), data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    Buffer& operator=(Buffer&&) = delete;
    ~Buffer() {
        if (data_ != nullptr) cuda_.release(data_);
    }

    void* data() const noexcept { return data_; }
    std::size_t bytes() const noexcept { return bytes_; }

  private:
    const Cuda& cuda_;
    void* data_ = nullptr;
    std::size_t bytes_;
};

class Stream {
  public:
    explicit Stream(const Cuda& cuda) : cuda_(cuda) { cuda.good(cuda.make_stream(&made_, cudaStreamNonBlocking), "cannot use a GPU"); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    ~Stream() { cuda_.end_stream(made_); }

    cudaStream_t get() const noexcept { return made_; }

  private:
    const Cuda& cuda_;
    cudaStream_t made_ = nullptr;
};

class Session {
  public:
    explicit Session(const Engine& engine) : runtime_(Runtime::get()), cuda_(Cuda::get()), stream_(cuda_) {
        const edgekd_file& plan = engine.at(engine.file);
        engine_.reset(runtime_.runtime->deserializeCudaEngine(plan.begin, static_cast<std::size_t>(plan.end - plan.begin)));
        if (engine_ == nullptr)
            fail(EDGEKD_RUNTIME_FAILED, "TensorRT refuses the engine: " + runtime_.log.error() +
                                            " (an engine runs on the kind of GPU, and by the version of TensorRT, that built it)");
        context_.reset(engine_->createExecutionContext());
        if (context_ == nullptr) fail(EDGEKD_RUNTIME_FAILED, "TensorRT cannot prepare the engine: " + runtime_.log.error());
        context_->setNvtxVerbosity(trt::ProfilingVerbosity::kNONE);  // the engine was built with all details, which slow calls
        if (static_cast<std::size_t>(engine_->getNbIOTensors()) != engine.input_count + engine.output_count) damaged("other ports");
        add(engine.inputs, engine.input_count, trt::TensorIOMode::kINPUT, inputs_);
        add(engine.outputs, engine.output_count, trt::TensorIOMode::kOUTPUT, outputs_);
    }

    void run(const Tensor* inputs, const Tensor* outputs) {
        for (std::size_t i = 0; i < inputs_.size(); ++i)
            good(cuda_.copy(inputs_[i].data(), inputs[i].data, inputs_[i].bytes(), cudaMemcpyHostToDevice, stream_.get()));
        if (!context_->enqueueV3(stream_.get())) fail(EDGEKD_RUNTIME_FAILED, "TensorRT cannot run the engine: " + runtime_.log.error());
        for (std::size_t i = 0; i < outputs_.size(); ++i)
            good(cuda_.copy(outputs[i].data, outputs_[i].data(), outputs_[i].bytes(), cudaMemcpyDeviceToHost, stream_.get()));
        good(cuda_.wait(stream_.get()));
    }

  private:
    [[noreturn]] static void damaged(const std::string& what) {
        fail(EDGEKD_DAMAGED, "bundle.json names " + what + " than the engine has");
    }

    void good(cudaError_t error) const { cuda_.good(error, "cannot run the engine"); }

    // Checks mode, type and shape of each port against the engine, makes its buffer and gives its address to the context.
    void add(const edgekd_port* ports, std::size_t count, trt::TensorIOMode mode, std::vector<Buffer>& buffers) {
        for (std::size_t i = 0; i < count; ++i) {
            const edgekd_port& port = ports[i];
            if (engine_->getTensorIOMode(port.name) != mode) damaged(std::string("other ports (") + port.name + ")");
            const Element element = element_of(port.dtype);
            const trt::Dims shape = engine_->getTensorShape(port.name);
            bool same = engine_->getTensorDataType(port.name) == element.type && shape.nbDims == static_cast<std::int32_t>(port.rank);
            for (std::size_t d = 0; same && d < port.rank; ++d) same = shape.d[d] == port.shape[d];
            if (!same) damaged(std::string("another type or shape of ") + port.name);
            buffers.emplace_back(cuda_, port.count * element.bytes);
            if (!context_->setTensorAddress(port.name, buffers.back().data())) damaged(std::string("other ports (") + port.name + ")");
        }
    }

    Runtime& runtime_;
    const Cuda& cuda_;
    Stream stream_;
    std::unique_ptr<trt::ICudaEngine> engine_;
    std::unique_ptr<trt::IExecutionContext> context_;
    std::vector<Buffer> inputs_;
    std::vector<Buffer> outputs_;
};

}  // namespace

EDGEKD_MODULE(Session, EDGEKD_TENSORRT_VERSION)
