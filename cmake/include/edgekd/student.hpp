// student.hpp: a compiled student in a C++17 app. All of it is inline over the C functions of edgekd/edgekd.h.
//
//     edgekd::Student student;
//     if (auto opened = student.open_linked("detector"); !opened) return complain(opened.message());
//     std::array<float, 10> logits;
//     if (auto ran = student.run(image, logits); !ran) return complain(ran.message());
//
// Nothing throws. One student may be used from several threads: its calls take turns. To run in parallel, open one a thread.
#pragma once

#include <edgekd/edgekd.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <type_traits>
#include <utility>

namespace edgekd {

using Class = edgekd_class;
using Code = edgekd_code;
using Dtype = edgekd_dtype;
using File = edgekd_file;
using Options = edgekd_options;
using Port = edgekd_port;
using Report = edgekd_report;

// What came of a call: true if it went well, else a code and a message. Ignoring one is a compiler's warning.
struct [[nodiscard]] Status {
    edgekd_status raw;

    explicit operator bool() const noexcept { return raw.code == EDGEKD_OK; }
    Code code() const noexcept { return raw.code; }
    // What went wrong, where and how to mend it; empty if nothing did.
    const char* message() const noexcept { return raw.message; }
};

// A view of contiguous elements, as C++20's std::span: of a vector, array, C array, or a pointer and a count.
template <class T>
class Span {
  public:
    constexpr Span() noexcept = default;
    constexpr Span(T* data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <std::size_t N>
    constexpr Span(T (&array)[N]) noexcept : data_(array), size_(N) {}
    template <class Container, class = std::enable_if_t<
                                   std::is_convertible_v<decltype(std::declval<Container&>().data()), T*>>>
    constexpr Span(Container& container) noexcept : data_(container.data()), size_(container.size()) {}

    constexpr T* data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T& operator[](std::size_t index) const noexcept { return data_[index]; }
    constexpr T* begin() const noexcept { return data_; }
    constexpr T* end() const noexcept { return data_ + size_; }

  private:
    T* data_ = nullptr;
    std::size_t size_ = 0;
};

// A float16 by its bits: IEEE 754 binary16.
struct Half {
    std::uint16_t bits;
};

// The Dtype of a C++ type; does not compile for others.
template <class T>
constexpr Dtype dtype_of() noexcept {
    using U = std::remove_cv_t<T>;
    if constexpr (std::is_same_v<U, float>) return EDGEKD_FLOAT32;
    else if constexpr (std::is_same_v<U, double>) return EDGEKD_FLOAT64;
    else if constexpr (std::is_same_v<U, Half>) return EDGEKD_FLOAT16;
    else if constexpr (std::is_same_v<U, std::int8_t>) return EDGEKD_INT8;
    else if constexpr (std::is_same_v<U, std::uint8_t>) return EDGEKD_UINT8;
    else if constexpr (std::is_same_v<U, std::int16_t>) return EDGEKD_INT16;
    else if constexpr (std::is_same_v<U, std::uint16_t>) return EDGEKD_UINT16;
    else if constexpr (std::is_same_v<U, std::int32_t>) return EDGEKD_INT32;
    else if constexpr (std::is_same_v<U, std::uint32_t>) return EDGEKD_UINT32;
    else if constexpr (std::is_same_v<U, std::int64_t>) return EDGEKD_INT64;
    else if constexpr (std::is_same_v<U, std::uint64_t>) return EDGEKD_UINT64;
    else {
        static_assert(std::is_same_v<U, bool> && sizeof(bool) == 1, "no tensor holds elements of this type");
        return EDGEKD_BOOL;
    }
}

// A tensor to read. Without a shape, the signature's; the number of elements then tells one dynamic size.
struct Input : edgekd_const_tensor {
    template <class T>
    Input(Span<const T> values, Span<const std::int64_t> shape = {}) noexcept
        : edgekd_const_tensor{values.data(), values.size(), dtype_of<T>(), shape.data(), shape.size()} {}
    template <class Container, class T = std::remove_pointer_t<decltype(std::declval<const Container&>().data())>>
    Input(const Container& values, Span<const std::int64_t> shape = {}) noexcept
        : edgekd_const_tensor{values.data(), values.size(), dtype_of<T>(), shape.data(), shape.size()} {}
    template <class T, std::size_t N>
    Input(const T (&values)[N], Span<const std::int64_t> shape = {}) noexcept
        : edgekd_const_tensor{values, N, dtype_of<T>(), shape.data(), shape.size()} {}
};

// A tensor to write.
struct Output : edgekd_tensor {
    template <class T>
    Output(Span<T> values, Span<const std::int64_t> shape = {}) noexcept
        : edgekd_tensor{values.data(), values.size(), dtype_of<T>(), shape.data(), shape.size()} {}
    template <class Container, class T = std::remove_pointer_t<decltype(std::declval<Container&>().data())>>
    Output(Container& values, Span<const std::int64_t> shape = {}) noexcept
        : edgekd_tensor{values.data(), values.size(), dtype_of<T>(), shape.data(), shape.size()} {}
    template <class T, std::size_t N>
    Output(T (&values)[N], Span<const std::int64_t> shape = {}) noexcept
        : edgekd_tensor{values, N, dtype_of<T>(), shape.data(), shape.size()} {}
};

// An opened bundle; closed when it goes. May be moved, not copied.
class Student final {
  public:
    Student() noexcept = default;
    Student(Student&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)) {}
    Student& operator=(Student&& other) noexcept {
        std::swap(raw_, other.raw_);
        return *this;
    }
    ~Student() { edgekd_close(raw_); }

    // Open the bundle in a folder, in place of the one that was open. See edgekd_open.
    Status open(const char* folder, const Options& options = {}) noexcept {
        close();
        return Status{edgekd_open(folder, &options, &raw_)};
    }
    // Open the bundle that CMake's edgekd_add_student(name …) linked into this program.
    Status open_linked(const char* name, const Options& options = {}) noexcept {
        close();
        return Status{edgekd_open_linked(name, &options, &raw_)};
    }
    // Open a bundle whose files are in memory.
    Status open_files(Span<const File> files, const Options& options = {}) noexcept {
        close();
        return Status{edgekd_open_files(files.data(), files.size(), &options, &raw_)};
    }
    void close() noexcept { edgekd_close(std::exchange(raw_, nullptr)); }
    explicit operator bool() const noexcept { return raw_ != nullptr; }

    // Compute one output for one input: vectors, arrays, C arrays or spans of the ports' types.
    Status run(const Input& input, const Output& output) noexcept { return Status{edgekd_run(raw_, &input, 1, &output, 1)}; }
    // Compute several for several, in the order of the ports: run({a, b}, {logits, boxes}).
    Status run(std::initializer_list<Input> inputs, std::initializer_list<Output> outputs) noexcept {
        static_assert(sizeof(Input) == sizeof(edgekd_const_tensor) && sizeof(Output) == sizeof(edgekd_tensor));
        return Status{edgekd_run(raw_, inputs.begin(), inputs.size(), outputs.begin(), outputs.size())};
    }
    // Raw data to the input: preprocess(image, input), where `image` has a shape: edgekd::Input(pixels, shape). See
    // edgekd_preprocess.
    Status preprocess(const Input& raw, const Output& input) const noexcept {
        return Status{edgekd_preprocess(raw_, &raw, &input)};
    }
    // A text, or two that are read together, to the inputs, in the order of the ports: tokenize("so", {ids, mask}, length).
    // `length` is how many numbers of each there are. See edgekd_tokenize.
    Status tokenize(std::string_view text, std::initializer_list<Output> inputs, std::size_t& length,
                    std::string_view pair = {}) const noexcept {
        return Status{edgekd_tokenize(raw_, text.data(), text.size(), pair.data(), pair.size(), inputs.begin(), inputs.size(), &length)};
    }
    // The outputs for a text, or for two: run_text("so", logits). See edgekd_run_text.
    Status run_text(std::string_view text, const Output& output, std::string_view pair = {}) noexcept {
        return Status{edgekd_run_text(raw_, text.data(), text.size(), pair.data(), pair.size(), &output, 1)};
    }
    Status run_text(std::string_view text, std::initializer_list<Output> outputs, std::string_view pair = {}) noexcept {
        return Status{edgekd_run_text(raw_, text.data(), text.size(), pair.data(), pair.size(), outputs.begin(), outputs.size())};
    }
    // The classes of an output, the largest first; `found` says how many of them. See edgekd_postprocess.
    Status postprocess(const Input& output, Span<Class> classes, std::size_t& found) const noexcept {
        found = classes.size();
        return Status{edgekd_postprocess(raw_, &output, classes.data(), &found)};
    }
    // Golden inputs against golden outputs, and a few timed calls. See edgekd_self_test.
    Status self_test(Report* report = nullptr, double slowdown = 0) noexcept {
        return Status{edgekd_self_test(raw_, slowdown, report)};
    }

    std::size_t input_count() const noexcept { return edgekd_input_count(raw_); }
    std::size_t output_count() const noexcept { return edgekd_output_count(raw_); }
    // An input or output; one without a name beyond the last.
    Port input(std::size_t index = 0) const noexcept {
        Port port{};
        (void)edgekd_input_port(raw_, index, &port);
        return port;
    }
    Port output(std::size_t index = 0) const noexcept {
        Port port{};
        (void)edgekd_output_port(raw_, index, &port);
        return port;
    }
    std::size_t label_count() const noexcept { return edgekd_label_count(raw_); }
    // Name of a class; null beyond the last.
    const char* label(std::size_t index) const noexcept { return edgekd_label(raw_, index); }
    // Numbers of the preprocessing: constant("mean"); empty if there are none.
    Span<const double> constant(const char* key) const noexcept {
        std::size_t count = 0;
        const double* found = edgekd_constant(raw_, key, &count);
        return {found, count};
    }
    // A text of the preprocessing: setting("layout"); null if there is none.
    const char* setting(const char* key) const noexcept { return edgekd_setting(raw_, key); }
    const char* name() const noexcept { return edgekd_name(raw_); }
    const char* backend() const noexcept { return edgekd_backend(raw_); }
    const char* runtime_version() const noexcept { return edgekd_runtime_version(raw_); }
    // For the C functions; stays owned by this object.
    edgekd_student* raw() const noexcept { return raw_; }

  private:
    edgekd_student* raw_ = nullptr;
};

}  // namespace edgekd
