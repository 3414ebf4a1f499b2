// The part of LiteRT's C API that a session needs, declared here because its wheel carries the library without headers. The
// TensorFlow Lite C API (TfLiteModelCreate, ...) is in no library of that wheel; this is the API that took its place.
// Source: github.com/google-ai-edge/LiteRT, litert/c: litert_environment.h, litert_model.h, litert_options.h,
// litert_compiled_model.h, litert_tensor_buffer.h, litert_model_types.h; tried with the library of PyPI's ai-edge-litert 2.3.0.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekd::core::litert {

struct Environment;
struct Model;
struct Options;
struct OpaqueOptions;
struct Compiled;
struct Signature;
struct Tensor;
struct Buffer;

using Status = int;  // 0: well

constexpr int kCpu = 1;  // of LiteRtHwAccelerators

// LiteRtRankedTensorType: filled in by the library and handed back to it.
struct Type {
    std::int32_t element;  // LiteRtElementType
    std::uint32_t rank;    // in its lowest 7 bits
    std::int32_t sizes[8];
    std::uint32_t strides[8];
    std::uint32_t spare[8];  // in case it grows

    std::size_t dimensions() const noexcept { return rank & 127u; }
};

// The functions by their names in the library, without the `LiteRt`.
struct Api {
    Status (*CreateEnvironment)(int count, const void* options, Environment** made);
    Status (*CreateModelFromBuffer)(Environment*, const void* data, std::size_t size, Model** made);
    void (*DestroyModel)(Model*);
    Status (*CreateOptions)(Options** made);
    void (*DestroyOptions)(Options*);
    Status (*SetOptionsHardwareAccelerators)(Options*, int accelerators);
    Status (*CreateOpaqueOptions)(const char* name, void* text, void (*free)(void*), OpaqueOptions** made);
    void (*DestroyOpaqueOptions)(OpaqueOptions*);
    Status (*AddOpaqueOptions)(Options*, OpaqueOptions*);
    Status (*CreateCompiledModel)(Environment*, Model*, Options*, Compiled** made);
    void (*DestroyCompiledModel)(Compiled*);
    Status (*GetModelSignature)(Model*, std::size_t index, Signature** found);
    Status (*GetNumSignatureInputs)(Signature*, std::size_t* count);
    Status (*GetNumSignatureOutputs)(Signature*, std::size_t* count);
    Status (*GetSignatureInputName)(Signature*, std::size_t index, const char** name);
    Status (*GetSignatureOutputName)(Signature*, std::size_t index, const char** name);
    Status (*GetSignatureInputTensorByIndex)(Signature*, std::size_t index, Tensor** found);
    Status (*GetSignatureOutputTensorByIndex)(Signature*, std::size_t index, Tensor** found);
    Status (*GetRankedTensorType)(Tensor*, Type* type);
    Status (*CreateTensorBufferFromHostMemory)(const Type*, void* data, std::size_t bytes, void (*free)(void*), Buffer** made);
    void (*DestroyTensorBuffer)(Buffer*);
    Status (*RunCompiledModel)(Compiled*, std::size_t signature, std::size_t inputs, Buffer**, std::size_t outputs, Buffer**);
};

// Call `take(function, name)` for each of them.
template <class Take>
void each(Api& api, Take&& take) {
#define EDGEKD_LITERT(name) take(api.name, "LiteRt" #name)
    EDGEKD_LITERT(CreateEnvironment);
    EDGEKD_LITERT(CreateModelFromBuffer);
    EDGEKD_LITERT(DestroyModel);
    EDGEKD_LITERT(CreateOptions);
    EDGEKD_LITERT(DestroyOptions);
    EDGEKD_LITERT(SetOptionsHardwareAccelerators);
    EDGEKD_LITERT(CreateOpaqueOptions);
    EDGEKD_LITERT(DestroyOpaqueOptions);
    EDGEKD_LITERT(AddOpaqueOptions);
    EDGEKD_LITERT(CreateCompiledModel);
    EDGEKD_LITERT(DestroyCompiledModel);
    EDGEKD_LITERT(GetModelSignature);
    EDGEKD_LITERT(GetNumSignatureInputs);
    EDGEKD_LITERT(GetNumSignatureOutputs);
    EDGEKD_LITERT(GetSignatureInputName);
    EDGEKD_LITERT(GetSignatureOutputName);
    EDGEKD_LITERT(GetSignatureInputTensorByIndex);
    EDGEKD_LITERT(GetSignatureOutputTensorByIndex);
    EDGEKD_LITERT(GetRankedTensorType);
    EDGEKD_LITERT(CreateTensorBufferFromHostMemory);
    EDGEKD_LITERT(DestroyTensorBuffer);
    EDGEKD_LITERT(RunCompiledModel);
#undef EDGEKD_LITERT
}

}  // namespace edgekd::core::litert
