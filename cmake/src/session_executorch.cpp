// ExecuTorch with the XNNPACK delegate, by way of a module: its runtime is C++ only.
#include "module_session.hpp"

namespace {

constexpr const char* kModule = "EDGEKD_EXECUTORCH_MODULE";

std::unique_ptr<edgekd::core::Session> open(const edgekd::core::Opening& opening) {
    return edgekd::core::open_module(opening, {"executorch", "executorch", kModule, nullptr});
}

}  // namespace

extern "C" {
EDGEKD_API extern const edgekd_runtime edgekd_executorch;
const edgekd_runtime edgekd_executorch = {"executorch", kModule, open};
}
