// MemoryFile: bytes as a file, for a runtime whose loader takes a path only.
#pragma once

#include "bundle.hpp"
#include "failure.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace edgekd::core {

// The engine's bytes as a file that only this process sees, for the loader, which takes no bytes. It is open as long as the
// library is loaded: the loader tells libraries apart by their paths, which hold the file's number.
class MemoryFile {
  public:
    explicit MemoryFile(const Bytes& bytes) : number_(memfd_create("edgekd-tvm", MFD_CLOEXEC)) {
        std::size_t done = 0;
        while (number_ >= 0 && done < bytes.size) {
            const ssize_t wrote = write(number_, bytes.data + done, bytes.size - done);
            if (wrote < 0 && errno == EINTR) continue;
            if (wrote <= 0) break;
            done += static_cast<std::size_t>(wrote);
        }
        if (done == bytes.size && number_ >= 0) return;
        if (number_ >= 0) close(number_);
        fail(EDGEKD_OUT_OF_MEMORY, "no memory for the engine's library");
    }
    MemoryFile(const MemoryFile&) = delete;
    MemoryFile& operator=(const MemoryFile&) = delete;
    ~MemoryFile() { close(number_); }

    std::string path() const { return "/proc/self/fd/" + std::to_string(number_); }

  private:
    int number_;
};

}  // namespace edgekd::core
