// Library: a runtime's shared library, found where the app, the environment, CMake or the system says, and loaded.
#pragma once

#include <string>
#include <vector>

namespace edgekd::core {

// Where to look, in this order; the first that is not empty decides whether the rest is tried.
struct Places {
    std::string said;                  // by the app or the environment: a file or a folder; nothing else is then tried
    std::string found;                 // by CMake: a file; if it is gone, the system is asked
    std::vector<std::string> names;    // of the file, the best first; the last is the stem of all: "libonnxruntime.so"
    std::vector<std::string> folders;  // inside the folder that was said, where wheels and archives keep it
    std::string cure;                  // what to do if none is there: a command
    std::vector<std::string> before = {};  // what it needs, by paths from its own folder: loaded first where it is there
};

// A loaded library. It stays loaded until the process ends: runtimes keep threads and caches that outlive their sessions.
class Library {
  public:
    // A Failure of EDGEKD_NO_RUNTIME names what was tried and what the loader said.
    explicit Library(const Places& places);

    // The address of a function; null if the library has none of this name.
    void* find(const char* name) const noexcept;
    // A function that must be there: a Failure of EDGEKD_NO_RUNTIME names it, what the library should be and the cure.
    template <class Function>
    void take(Function*& function, const char* name, const char* should_be) const {
        function = reinterpret_cast<Function*>(needed(name, should_be));
    }
    const std::string& path() const noexcept { return path_; }

  private:
    bool load(const Places& places, const std::string& path);
    void* needed(const char* name, const char* should_be) const;

    void* handle_ = nullptr;
    std::string path_;
    std::string tried_;
    std::string cure_;
};

}  // namespace edgekd::core
