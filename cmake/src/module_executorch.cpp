// The module of ExecuTorch: one loaded method, its memory planned once.
//
// The method copies inputs into, and gives outputs out of, the memory that was planned when it was exported: one copy each way.
// Its thread pool is the whole process's, and cannot be changed while a method is loaded.
#include "module.hpp"

#include <executorch/extension/data_loader/buffer_data_loader.h>
#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <vector>

// Of the library libexecutorch_threadpool; the wheel does not carry its header.
namespace executorch::extension::threadpool {
class ThreadPool {
  public:
    std::size_t get_thread_count() const;
    bool _unsafe_reset_threadpool(std::uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

namespace et = executorch::runtime;
namespace ext = executorch::extension;
using edgekd::core::fail;
using edgekd::core::Tensor;
using edgekd::module::Engine;
using executorch::aten::ScalarType;

// What ExecuTorch logs while a session works is kept back: an error goes into the status, the rest nowhere. Logs of the app's own
// use of it go where they went.
class Listening {
  public:
    Listening() {
        static const bool registered = [] {
            before() = et::get_pal_impl()->emit_log_message;
            return et::register_pal(et::PalImpl::create(hear, __FILE__));
        }();
        (void)registered;
        said()[0] = '\0';
        active() = true;
    }
    Listening(const Listening&) = delete;
    Listening& operator=(const Listening&) = delete;
    ~Listening() { active() = false; }

    // The last error of this thread; empty if there was none.
    static const char* error() noexcept { return said(); }

  private:
    static void hear(et_timestamp_t time, et_pal_log_level_t level, const char* file, const char* function, std::size_t line,
                     const char* message, std::size_t size) {
        if (!active()) {
            if (before() != nullptr) before()(time, level, file, function, line, message, size);
        } else if (level == et_pal_log_level_t::kError || level == et_pal_log_level_t::kFatal) {
            const std::size_t kept = std::min(size, kMost - 1);
            std::memcpy(said(), message, kept);
            said()[kept] = '\0';
        }
    }
    static pal_emit_log_message_method& before() {
        static pal_emit_log_message_method method = nullptr;
        return method;
    }
    static bool& active() {
        thread_local bool now = false;
        return now;
    }
    static constexpr std::size_t kMost = 512;
    static char* said() {
        thread_local char text[kMost] = {};
        return text;
    }
};

void good(et::Error error, const char* doing) {
    if (error == et::Error::Ok) return;
    const std::string said = Listening::error();
    fail(EDGEKD_RUNTIME_FAILED, std::string("executorch ") + doing + ": " + et::to_string(error) + (said.empty() ? "" : ": " + said));
}

template <class T>
T& good(et::Result<T>& result, const char* doing) {
    good(result.error(), doing);
    return result.get();
}

ScalarType scalar_type(edgekd_dtype dtype) {
    switch (dtype) {
        case EDGEKD_FLOAT32: return ScalarType::Float;
        case EDGEKD_FLOAT64: return ScalarType::Double;
        case EDGEKD_FLOAT16: return ScalarType::Half;
        case EDGEKD_INT8: return ScalarType::Char;
        case EDGEKD_UINT8: return ScalarType::Byte;
        case EDGEKD_INT16: return ScalarType::Short;
        case EDGEKD_UINT16: return ScalarType::UInt16;
        case EDGEKD_INT32: return ScalarType::Int;
        case EDGEKD_UINT32: return ScalarType::UInt32;
        case EDGEKD_INT64: return ScalarType::Long;
        case EDGEKD_UINT64: return ScalarType::UInt64;
        case EDGEKD_BOOL: return ScalarType::Bool;
    }
    fail(EDGEKD_DAMAGED, "bundle.json: executorch knows no such dtype");
}

// The threads of the process's pool, for as long as a session holds this. The delegate keeps a pointer to the pool, so it may
// not be made anew while one is open.
class Threads {
  public:
    explicit Threads(int count) {
        const std::lock_guard<std::mutex> hold(mutex());
        auto* pool = ext::threadpool::get_threadpool();
        if (pool == nullptr) fail(EDGEKD_RUNTIME_FAILED, "executorch has no thread pool");
        const auto wanted = static_cast<std::size_t>(count);
        if (pool->get_thread_count() != wanted) {
            if (users() != 0)
                fail(EDGEKD_RUNTIME_FAILED, "executorch has one thread pool a process, and an open student uses it with " +
                                                std::to_string(pool->get_thread_count()) + " thread(s): open this one with as many (Options::threads)");
            if (!pool->_unsafe_reset_threadpool(static_cast<std::uint32_t>(count)))
                fail(EDGEKD_RUNTIME_FAILED, "executorch cannot make a pool of " + std::to_string(count) + " threads");
        }
        ++users();
    }
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;
    ~Threads() {
        const std::lock_guard<std::mutex> hold(mutex());
        --users();
    }

  private:
    static std::mutex& mutex() {
        static std::mutex one;
        return one;
    }
    static int& users() {
        static int count = 0;
        return count;
    }
};

// An input's description for the method, over the app's memory.
struct Input {
    explicit Input(const edgekd_port& port) : sizes(port.shape, port.shape + port.rank), order(port.rank), strides(port.rank, 1) {
        for (std::size_t i = 0; i < port.rank; ++i) order[i] = static_cast<et::etensor::TensorImpl::DimOrderType>(i);
        for (std::size_t i = port.rank; i > 1; --i) strides[i - 2] = strides[i - 1] * sizes[i - 1];
        tensor.emplace(scalar_type(port.dtype), static_cast<ssize_t>(port.rank), sizes.data(), nullptr, order.data(), strides.data());
    }

    std::vector<et::etensor::TensorImpl::SizesType> sizes;
    std::vector<et::etensor::TensorImpl::DimOrderType> order;
    std::vector<et::etensor::TensorImpl::StridesType> strides;
    std::optional<et::etensor::TensorImpl> tensor;
};

struct alignas(64) Line {
    std::uint8_t bytes[64];
};

std::vector<Line> lines(std::size_t bytes) { return std::vector<Line>((bytes + sizeof(Line) - 1) / sizeof(Line)); }

class Session {
  public:
    explicit Session(const Engine& engine) {
        const Listening listening;
        threads_.emplace(engine.threads);
        constexpr const char* kRefuses = "refuses the engine";
        et::runtime_init();
        const edgekd_file& file = engine.at(engine.file);
        const auto size = static_cast<std::size_t>(file.end - file.begin);
        bytes_ = lines(size);
        std::memcpy(bytes_.data(), file.begin, size);
        loader_.emplace(bytes_.data(), size);
        auto program = et::Program::load(&*loader_, et::Program::Verification::InternalConsistency);
        program_.emplace(std::move(good(program, kRefuses)));
        auto meta = program_->method_meta("forward");
        check(good(meta, kRefuses), engine);
        for (std::size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
            auto bytes = meta->memory_planned_buffer_size(i);
            planned_.push_back(lines(static_cast<std::size_t>(good(bytes, kRefuses))));
            spans_.emplace_back(planned_.back().data()->bytes, static_cast<std::size_t>(*bytes));
        }
        memory_.emplace(et::Span<et::Span<std::uint8_t>>(spans_.data(), spans_.size()));
        manager_.emplace(&method_memory_, &*memory_, &scratch_);
        auto method = program_->load_method("forward", &*manager_);
        method_.emplace(std::move(good(method, kRefuses)));
        for (std::size_t i = 0; i < engine.input_count; ++i) inputs_.emplace_back(engine.inputs[i]);
        outputs_ = engine.output_count;
    }

    void run(const Tensor* inputs, const Tensor* outputs) {
        const Listening listening;
        constexpr const char* kCannot = "cannot run the engine";
        for (std::size_t i = 0; i < inputs_.size(); ++i) {
            inputs_[i].tensor->set_data(inputs[i].data);
            good(method_->set_input(et::EValue(executorch::aten::Tensor(&*inputs_[i].tensor)), i), kCannot);
        }
        good(method_->execute(), kCannot);
        for (std::size_t i = 0; i < outputs_; ++i) {
            const auto& made = method_->get_output(i).toTensor();
            if (static_cast<std::size_t>(made.numel()) != outputs[i].count)
                fail(EDGEKD_DAMAGED, "an output of the engine has another size than bundle.json says");
            std::memcpy(outputs[i].data, made.const_data_ptr(), made.nbytes());  // of the type that was checked
        }
    }

  private:
    // Counts, types and shapes, before anything is lent to the method.
    static void check(const et::MethodMeta& meta, const Engine& engine) {
        bool same = meta.num_inputs() == engine.input_count && meta.num_outputs() == engine.output_count;
        for (std::size_t i = 0; same && i < engine.input_count + engine.output_count; ++i) {
            const bool in = i < engine.input_count;
            const edgekd_port& port = in ? engine.inputs[i] : engine.outputs[i - engine.input_count];
            auto tensor = in ? meta.input_tensor_meta(i) : meta.output_tensor_meta(i - engine.input_count);
            same = tensor.ok() && tensor->scalar_type() == scalar_type(port.dtype) && tensor->sizes().size() == port.rank;
            for (std::size_t d = 0; same && d < port.rank; ++d) same = tensor->sizes()[d] == port.shape[d];
        }
        if (!same) fail(EDGEKD_DAMAGED, "bundle.json names other inputs and outputs than the engine has");
    }

    std::optional<Threads> threads_;
    std::vector<Line> bytes_;
    std::optional<ext::BufferDataLoader> loader_;
    std::optional<et::Program> program_;
    std::vector<std::vector<Line>> planned_;
    std::vector<et::Span<std::uint8_t>> spans_;
    std::optional<et::HierarchicalAllocator> memory_;
    ext::MallocMemoryAllocator method_memory_;
    ext::MallocMemoryAllocator scratch_;
    std::optional<et::MemoryManager> manager_;
    std::optional<et::Method> method_;
    std::deque<Input> inputs_;
    std::size_t outputs_ = 0;
};

}  // namespace

EDGEKD_MODULE(Session, EDGEKD_RUNTIME_VERSION)
