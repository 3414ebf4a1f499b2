// Session: an opened engine; and edgekd_runtime, what a session_<backend>.cpp defines so that one can be opened.
//
// To add a runtime: write session_<backend>.cpp that defines `extern const edgekd_runtime edgekd_<backend>`, and
// runtime_<backend>.cmake that finds its library. Nothing else names it.
#pragma once

#include "bundle.hpp"
#include "signature.hpp"

#include <edgekd/edgekd.h>

#include <memory>
#include <string>

namespace edgekd::core {

// What a session is opened from. All of it lives as long as the session, but for the bytes of the bundle.
struct Opening {
    const Bundle& bundle;
    const Files& files;
    int threads;          // 0: as the engine was compiled for
    bool any_version;     // take an older runtime
    std::string library;  // the runtime's library or its folder, as the app or the environment said; may be empty
    std::string found;    // the library that CMake found; may be empty
};

class Session {
  public:
    Session() = default;
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
    virtual ~Session() = default;

    // Fill in the outputs. The tensors were checked against the signature. A Failure of EDGEKD_RUNTIME_FAILED carries the
    // runtime's own words. Allocates nothing from the second call with the same buffers on.
    virtual void run(const Call& call) = 0;
    virtual const char* version() const noexcept = 0;
};

}  // namespace edgekd::core

struct edgekd_runtime {
    const char* backend;      // as engine.json names it
    const char* environment;  // the variable that says where its library is; "" if it needs none
    // A Failure of EDGEKD_NO_RUNTIME or EDGEKD_OTHER_RUNTIME says with which command to mend it.
    std::unique_ptr<edgekd::core::Session> (*open)(const edgekd::core::Opening& opening);
};
