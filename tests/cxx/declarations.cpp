// What the sessions declare of runtimes' C APIs, against the headers that the wheels of some carry. Prints which were compared.
#include "openvino_api.hpp"
#include "tvm_api.hpp"

#if __has_include(<openvino/c/openvino.h>)
#include <openvino/c/openvino.h>
#define EDGEKD_OPENVINO
#endif
#if __has_include(<tvm/ffi/c_api.h>)
#include <tvm/ffi/c_api.h>
#define EDGEKD_TVM
#endif

#include <cstddef>
#include <cstdio>
#include <type_traits>

namespace {

// Whether a call that was compiled for one passes its arguments as the other takes them.
template <class A, class B>
constexpr bool alike = std::is_pointer_v<A> == std::is_pointer_v<B> && std::is_class_v<A> == std::is_class_v<B> &&
                       (std::is_void_v<A> ? std::is_void_v<B> : sizeof(std::conditional_t<std::is_void_v<A>, char, A>) ==
                                                                    sizeof(std::conditional_t<std::is_void_v<B>, char, B>));

template <class A, class B>
struct Same : std::false_type {};
template <class R, class... As, class S, class... Bs>
struct Same<R (*)(As...), S (*)(Bs...)> {
    static constexpr bool check() {
        if constexpr (sizeof...(As) == sizeof...(Bs)) return alike<R, S> && (alike<As, Bs> && ...);
        else return false;
    }
    static constexpr bool value = check();
};
template <class R, class... As, class S, class... Bs>
struct Same<R (*)(As..., ...), S (*)(Bs..., ...)> : Same<R (*)(As...), S (*)(Bs...)> {};

}  // namespace

#ifdef EDGEKD_OPENVINO
namespace openvino_is_as_declared {
using edgekd::core::openvino::Api;
#define SAME(name) static_assert(Same<decltype(Api::name), decltype(&::ov_##name)>::value, #name)
SAME(get_openvino_version);
SAME(version_free);
SAME(get_last_err_msg);
SAME(free);
SAME(get_error_info);
SAME(core_create);
SAME(core_read_model_from_memory_buffer);
SAME(core_compile_model);
SAME(model_free);
SAME(compiled_model_inputs_size);
SAME(compiled_model_outputs_size);
SAME(compiled_model_input_by_name);
SAME(compiled_model_output_by_name);
SAME(compiled_model_create_infer_request);
SAME(compiled_model_free);
SAME(port_get_element_type);
SAME(tensor_create);
SAME(tensor_create_from_host_ptr);
SAME(tensor_get_byte_size);
SAME(tensor_data);
SAME(tensor_free);
SAME(infer_request_set_tensor_by_const_port);
SAME(infer_request_infer);
SAME(infer_request_free);
#undef SAME
static_assert(Same<decltype(Api::output_const_port_free), decltype(&::ov_output_const_port_free)>::value);
static_assert(BOOLEAN == 1 && F16 == 3 && F32 == 4 && F64 == 5 && I8 == 7 && I16 == 8 && I32 == 9 && I64 == 10);
static_assert(U8 == 16 && U16 == 17 && U32 == 18 && U64 == 19);
static_assert(offsetof(ov_shape_t, dims) == offsetof(edgekd::core::openvino::Shape, sizes));
}  // namespace openvino_is_as_declared
#endif

#ifdef EDGEKD_TVM
namespace tvm_is_as_declared {
namespace own = edgekd::core::tvm;
static_assert(sizeof(TVMFFIObject) == sizeof(own::Object) && offsetof(TVMFFIObject, type_index) == offsetof(own::Object, type));
static_assert(sizeof(TVMFFIAny) == sizeof(own::Any) && offsetof(TVMFFIAny, v_obj) == offsetof(own::Any, object));
static_assert(sizeof(TVMFFIByteArray) == sizeof(own::Text) && offsetof(TVMFFIByteArray, size) == offsetof(own::Text, size));
static_assert(offsetof(TVMFFIErrorCell, message) == offsetof(own::Error, message));
static_assert(offsetof(TVMFFISeqCell, size) == offsetof(own::Sequence, size));
static_assert(sizeof(DLTensor) == sizeof(own::Dense) && offsetof(DLTensor, device) == offsetof(own::Dense, device));
static_assert(offsetof(DLTensor, ndim) == offsetof(own::Dense, rank) && offsetof(DLTensor, dtype) == offsetof(own::Dense, code));
static_assert(offsetof(DLTensor, shape) == offsetof(own::Dense, shape) && offsetof(DLTensor, byte_offset) == offsetof(own::Dense, offset));
static_assert(sizeof(DLManagedTensor) == sizeof(own::Managed) && offsetof(DLManagedTensor, deleter) == offsetof(own::Managed, deleter));
static_assert(kTVMFFINone == own::kNone && kTVMFFIInt == own::kInt && kTVMFFIBool == own::kBool && kTVMFFIRawStr == own::kRawText);
static_assert(kTVMFFIStaticObjectBegin == own::kFirstObject && kTVMFFIFunction == own::kFunction && kTVMFFITensor == own::kTensor);
static_assert(kTVMFFIArray == own::kArray && kTVMFFIModule == own::kModule);
static_assert(kDLInt == 0 && kDLUInt == 1 && kDLFloat == 2 && kDLBool == 6 && kDLCPU == 1);
static_assert(sizeof(TVMFFIVersion) == sizeof(own::Version) && offsetof(TVMFFIVersion, patch) == offsetof(own::Version, patch));
static_assert(Same<decltype(own::Api::GetVersion), decltype(&TVMFFIGetVersion)>::value);
static_assert(Same<decltype(own::Api::FunctionGetGlobal), decltype(&TVMFFIFunctionGetGlobal)>::value);
static_assert(Same<decltype(own::Api::FunctionCall), decltype(&TVMFFIFunctionCall)>::value);
static_assert(Same<decltype(own::Api::ObjectDecRef), decltype(&TVMFFIObjectDecRef)>::value);
static_assert(Same<decltype(own::Api::TensorFromDLPack), decltype(&TVMFFITensorFromDLPack)>::value);
static_assert(Same<decltype(own::Api::ErrorMoveFromRaised), decltype(&TVMFFIErrorMoveFromRaised)>::value);
}  // namespace tvm_is_as_declared
#endif

int main() {
#ifdef EDGEKD_OPENVINO
    std::puts("openvino");
#endif
#ifdef EDGEKD_TVM
    std::puts("tvm");
#endif
}
