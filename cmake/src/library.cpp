// Loading by dlopen, so that an app starts without the runtime and says itself what is missing.
#include "library.hpp"

#include "failure.hpp"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

namespace edgekd::core {
namespace {

namespace fs = std::filesystem;

// The library in a folder, or in the folders inside it where wheels and packages keep theirs; the folder itself if none.
std::string in_folder(const fs::path& folder, const std::string& stem, const std::vector<std::string>& folders) {
    std::vector<std::string> places = {"", "lib", "lib64"};
    places.insert(places.end(), folders.begin(), folders.end());
    for (const std::string& inside : places) {
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

bool Library::load(const Places& places, const std::string& path) {
    const fs::path beside = fs::path(path).parent_path();  // none: the system looks the name up, and so it does what comes before
    for (const std::string& need : places.before)
        if (!beside.empty()) dlopen((beside / need).c_str(), RTLD_NOW | RTLD_LOCAL);
    handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) {
        path_ = path;
        return true;
    }
    const char* why = dlerror();
    tried_ += (tried_.empty() ? "" : "; ") + std::string(why != nullptr ? why : path.c_str());
    return false;
}

Library::Library(const Places& places) : cure_(places.cure) {
    if (!places.said.empty()) {
        std::error_code error;
        const bool folder = fs::is_directory(places.said, error);
        if (load(places, folder ? in_folder(places.said, places.names.back(), places.folders) : places.said)) return;
    } else {
        if (!places.found.empty() && load(places, places.found)) return;
        for (const std::string& name : places.names)
            if (load(places, name)) return;
    }
    fail(EDGEKD_NO_RUNTIME, "the runtime's library cannot be loaded (" + tried_ + "): " + places.cure);
}

void* Library::find(const char* name) const noexcept { return dlsym(handle_, name); }

void* Library::needed(const char* name, const char* should_be) const {
    void* found = find(name);
    if (found == nullptr) fail(EDGEKD_NO_RUNTIME, path_ + " is no " + should_be + " (it has no " + name + "): " + cure_);
    return found;
}

}  // namespace edgekd::core
