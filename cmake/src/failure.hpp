// Failure: how the library's own code says that it cannot go on. It never leaves the library: `guarded` makes it a status.
#pragma once

#include <edgekd/edgekd.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <utility>

namespace edgekd::core {

struct Failure {
    edgekd_code code;
    std::string message;
};

[[noreturn]] inline void fail(edgekd_code code, std::string message) { throw Failure{code, std::move(message)}; }

// The message is written as far as it fits; the rest of its bytes are left alone, which keeps a good status cheap.
inline void set(edgekd_status& status, edgekd_code code, std::string_view message) noexcept {
    status.code = code;
    const std::size_t kept = std::min(message.size(), sizeof status.message - 1);
    if (kept != 0) std::memcpy(status.message, message.data(), kept);
    status.message[kept] = '\0';
}

inline void needed(const void* pointer, const char* name) {
    if (pointer == nullptr) fail(EDGEKD_INVALID_ARGUMENT, std::string(name) + " is a null pointer");
}

// Run `body` and say what came of it. Every function of the C API is one call of this.
template <class Body>
edgekd_status guarded(Body&& body) noexcept {
    edgekd_status status;
    try {
        body();
        set(status, EDGEKD_OK, "");
    } catch (const Failure& failure) {
        set(status, failure.code, failure.message);
    } catch (const std::bad_alloc&) {
        set(status, EDGEKD_OUT_OF_MEMORY, "out of memory");
    } catch (const std::exception& error) {
        set(status, EDGEKD_INTERNAL, error.what());
    } catch (...) {
        set(status, EDGEKD_INTERNAL, "an unknown exception");
    }
    return status;
}

}  // namespace edgekd::core
