// The part of OpenVINO's C API that a session needs, declared here so that the library is built, and the app starts, without
// OpenVINO. Names and arguments are those of its headers; its wheel carries them, and tests/cxx compares the two.
// Source: docs.openvino.ai, "OpenVINO Runtime C API": ov_core.h, ov_compiled_model.h, ov_infer_request.h, ov_tensor.h, ov_node.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekd::core::openvino {

struct Core;
struct Model;
struct CompiledModel;
struct Request;
struct Tensor;
struct Port;

struct Shape {
    std::int64_t rank;
    std::int64_t* sizes;
};

struct Version {
    const char* build;
    const char* description;
};

using Status = int;  // 0: well

// The functions by their names in the library, without the `ov_`.
struct Api {
    Status (*get_openvino_version)(Version* version);
    void (*version_free)(Version* version);
    const char* (*get_last_err_msg)();
    void (*free)(const char* text);
    const char* (*get_error_info)(Status status);
    Status (*core_create)(Core** made);
    Status (*core_read_model_from_memory_buffer)(const Core*, const char* xml, std::size_t size, const Tensor* weights, Model** made);
    // `count` texts follow: key, value, key, value, …
    Status (*core_compile_model)(const Core*, const Model*, const char* device, std::size_t count, CompiledModel** made, ...);
    void (*model_free)(Model*);
    Status (*compiled_model_inputs_size)(const CompiledModel*, std::size_t* count);
    Status (*compiled_model_outputs_size)(const CompiledModel*, std::size_t* count);
    Status (*compiled_model_input_by_name)(const CompiledModel*, const char* name, Port** made);
    Status (*compiled_model_output_by_name)(const CompiledModel*, const char* name, Port** made);
    Status (*compiled_model_create_infer_request)(const CompiledModel*, Request** made);
    void (*compiled_model_free)(CompiledModel*);
    Status (*port_get_element_type)(const Port*, int* type);
    void (*output_const_port_free)(Port*);
    Status (*tensor_create)(int type, Shape shape, Tensor** made);
    Status (*tensor_create_from_host_ptr)(int type, Shape shape, void* data, Tensor** made);
    Status (*tensor_get_byte_size)(const Tensor*, std::size_t* bytes);
    Status (*tensor_data)(const Tensor*, void** data);
    void (*tensor_free)(Tensor*);
    Status (*infer_request_set_tensor_by_const_port)(Request*, const Port*, const Tensor*);
    Status (*infer_request_infer)(Request*);
    void (*infer_request_free)(Request*);
};

// Call `take(function, name)` for each of them.
template <class Take>
void each(Api& api, Take&& take) {
#define EDGEKD_OV(name) take(api.name, "ov_" #name)
    EDGEKD_OV(get_openvino_version);
    EDGEKD_OV(version_free);
    EDGEKD_OV(get_last_err_msg);
    EDGEKD_OV(free);
    EDGEKD_OV(get_error_info);
    EDGEKD_OV(core_create);
    EDGEKD_OV(core_read_model_from_memory_buffer);
    EDGEKD_OV(core_compile_model);
    EDGEKD_OV(model_free);
    EDGEKD_OV(compiled_model_inputs_size);
    EDGEKD_OV(compiled_model_outputs_size);
    EDGEKD_OV(compiled_model_input_by_name);
    EDGEKD_OV(compiled_model_output_by_name);
    EDGEKD_OV(compiled_model_create_infer_request);
    EDGEKD_OV(compiled_model_free);
    EDGEKD_OV(port_get_element_type);
    EDGEKD_OV(output_const_port_free);
    EDGEKD_OV(tensor_create);
    EDGEKD_OV(tensor_create_from_host_ptr);
    EDGEKD_OV(tensor_get_byte_size);
    EDGEKD_OV(tensor_data);
    EDGEKD_OV(tensor_free);
    EDGEKD_OV(infer_request_set_tensor_by_const_port);
    EDGEKD_OV(infer_request_infer);
    EDGEKD_OV(infer_request_free);
#undef EDGEKD_OV
}

}  // namespace edgekd::core::openvino
