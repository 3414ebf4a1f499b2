// ncnn on the CPU, by way of a module: its C API cannot say which options the engine was compiled for.
#include "module_session.hpp"

namespace {

using edgekd::core::Json;

constexpr const char* kModule = "EDGEKD_NCNN_MODULE";
constexpr const char* kCure = "get ncnn's headers and library, which its wheel does not carry (a release of github.com/Tencent/ncnn, "
                              "or the system's libncnn-dev), and say in EDGEKD_NCNN_ROOT which folder holds include/ncnn and lib";

std::vector<std::string> names(const Json& blobs) {
    std::vector<std::string> found;
    for (const Json& name : blobs.list()) found.push_back(name.text());
    return found;
}

std::unique_ptr<edgekd::core::Session> open(const edgekd::core::Opening& opening) {
    const Json& blobs = opening.bundle.engine.at("blobs");
    return edgekd::core::open_module(opening, {"ncnn", "ncnn", kModule, kCure, names(blobs.at("inputs")), names(blobs.at("outputs"))});
}

}  // namespace

extern "C" {
EDGEKD_API extern const edgekd_runtime edgekd_ncnn;
const edgekd_runtime edgekd_ncnn = {"ncnn", kModule, open};
}
