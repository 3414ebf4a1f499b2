// The part of TVM FFI's C ABI that a session needs, declared here so that the library is built, and the app starts, without TVM.
// Everything in TVM's runtime is a function or an object behind these few calls; what is read inside an object is its ABI, too.
// Source: tvm_ffi/include/tvm/ffi/c_api.h (0.1) and dlpack/dlpack.h (1.1); its wheel carries both, and tests/cxx compares them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekd::core::tvm {

// TVMFFITypeIndex
constexpr std::int32_t kNone = 0;
constexpr std::int32_t kInt = 1;
constexpr std::int32_t kBool = 2;
constexpr std::int32_t kRawText = 8;
constexpr std::int32_t kFirstObject = 64;
constexpr std::int32_t kFunction = 68;
constexpr std::int32_t kTensor = 70;
constexpr std::int32_t kArray = 71;
constexpr std::int32_t kModule = 73;

// TVMFFIObject: what every object begins with.
struct Object {
    std::uint64_t references;
    std::int32_t type;
    std::uint32_t padding;
    void (*deleter)(void* self, int flags);
};

// TVMFFIAny
struct Any {
    std::int32_t type;
    std::uint32_t zero;
    union {
        std::int64_t whole;
        const char* text;
        Object* object;
    };
};

// TVMFFIByteArray
struct Text {
    const char* data;
    std::size_t size;
};

// The beginning of TVMFFIErrorCell, behind an error's Object.
struct Error {
    Text kind;
    Text message;
};

// The beginning of TVMFFISeqCell, behind an array's Object.
struct Sequence {
    const Any* data;
    std::int64_t size;
};

// DLTensor, behind a tensor's Object.
struct Dense {
    void* data;
    std::int32_t device;  // 1: the CPU
    std::int32_t device_id;
    std::int32_t rank;
    std::uint8_t code;
    std::uint8_t bits;
    std::uint16_t lanes;
    std::int64_t* shape;
    std::int64_t* strides;
    std::uint64_t offset;
};

// DLManagedTensor
struct Managed {
    Dense tensor;
    void* context;
    void (*deleter)(Managed* self);
};

// TVMFFIVersion
struct Version {
    std::uint32_t major;
    std::uint32_t minor;
    std::uint32_t patch;
};

// What is behind an object's header.
template <class Cell>
const Cell& cell(const Object* object) noexcept {
    return *reinterpret_cast<const Cell*>(object + 1);
}

// The functions by their names in the library, without the `TVMFFI`. 0: well.
struct Api {
    void (*GetVersion)(Version* version);
    int (*FunctionGetGlobal)(const Text* name, Object** function);
    int (*FunctionCall)(Object* function, Any* arguments, std::int32_t count, Any* result);
    int (*ObjectDecRef)(Object*);
    int (*TensorFromDLPack)(Managed*, std::int32_t alignment, std::int32_t contiguous, Object** tensor);
    void (*ErrorMoveFromRaised)(Object** error);
};

}  // namespace edgekd::core::tvm
