// Library: a runtime's shared library, found where the app, the environment, CMake or the system says, and loaded.
#pragma once

#include <string>

namespace edgekd::core {

// Where to look, in this order; the first that is not empty decides whether the rest is tried.
struct Places {
    std::string said;         // by the app or the environment: a file or a folder; nothing else is then tried
    std::string found;        // by CMake: a file; if it is gone, the system is asked
    std::string stem;         // of the file: "libonnxruntime.so"
    std::string cure;         // what to do if none is there: a command
};

// A loaded library. It stays loaded until the process ends: runtimes keep threads and caches that outlive their sessions.
class Library {
  public:
    // A Failure of EDGEKD_NO_RUNTIME names what was tried and what the loader said.
    explicit Library(const Places& places);

    // The address of a function; null if the library has none of this name.
    void* find(const char* name) const noexcept;
    const std::string& path() const noexcept { return path_; }

  private:
    bool load(const std::string& path);

    void* handle_ = nullptr;
    std::string path_;
    std::string tried_;
};

}  // namespace edgekd::core
