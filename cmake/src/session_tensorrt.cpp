// TensorRT on the GPU that built the engine, by way of a module: it can be called in C++ only.
#include "module_session.hpp"

namespace {

constexpr const char* kModule = "EDGEKD_TENSORRT_MODULE";
constexpr const char* kCure = "get TensorRT and CUDA with their headers (on a Jetson: sudo apt-get install nvidia-jetpack; else an archive "
                              "of NVIDIA's, and say in EDGEKD_TENSORRT_ROOT which folder holds its include and lib)";

std::unique_ptr<edgekd::core::Session> open(const edgekd::core::Opening& opening) {
    return edgekd::core::open_module(opening, {"tensorrt", "tensorrt", kModule, kCure});
}

}  // namespace

extern "C" {
EDGEKD_API extern const edgekd_runtime edgekd_tensorrt;
const edgekd_runtime edgekd_tensorrt = {"tensorrt", kModule, open};
}
