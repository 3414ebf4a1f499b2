// Loading by dlopen, so that an app starts without the runtime and says itself what is missing.
#include "library.hpp"

#include "failure.hpp"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>
#include <vector>

namespace edgekd::core {
namespace {

namespace fs = std::filesystem;

// The library in a folder, or in the folders inside it where wheels and packages keep theirs; the folder itself if none.
std::string in_folder(const fs::path& folder, const std::string& stem) {
    for (const char* inside : {"", "lib", "lib64", "capi", "onnxruntime/capi"}) {
        std::error_code error;
        std::string best;
        for (fs::directory_iterator at(folder / inside, error), end; !error && at != end; at.increment(error)) {
            const std::string name = at->path().filename().string();
            if (name.compare(0, stem.size(), stem) == 0 && (best.empty() || name < best)) best = name;
        }
        if (!best.empty()) return (folder / inside / best).string();
    }
    return (folder / stem).string();
}

}  // namespace

bool Library::load(const std::string& path) {
    handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) {
        path_ = path;
        return true;
    }
    const char* why = dlerror();
    tried_ += (tried_.empty() ? "" : "; ") + std::string(why != nullptr ? why : path.c_str());
    return false;
}

Library::Library(const Places& places) {
    if (!places.said.empty()) {
        std::error_code error;
        const bool folder = fs::is_directory(places.said, error);
        if (load(folder ? in_folder(places.said, places.stem) : places.said)) return;
    } else {
        if (!places.found.empty() && load(places.found)) return;
        if (load(places.stem + ".1") || load(places.stem)) return;
    }
    fail(EDGEKD_NO_RUNTIME, "the runtime's library cannot be loaded (" + tried_ + "): " + places.cure);
}

void* Library::find(const char* name) const noexcept { return dlsym(handle_, name); }

}  // namespace edgekd::core
