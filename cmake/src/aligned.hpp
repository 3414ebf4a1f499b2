// Aligned: memory on a multiple of 64 bytes, for runtimes that take no other.
#pragma once

#include "signature.hpp"

#include <cstring>
#include <vector>

namespace edgekd::core {

// A place for one port. It grows to the largest tensor it has held, and is then used again.
class Aligned {
  public:
    static constexpr std::size_t kBytes = 64;

    static bool is(const void* data) noexcept { return reinterpret_cast<std::uintptr_t>(data) % kBytes == 0; }
    static std::size_t bytes(const Tensor& tensor) noexcept { return tensor.count * edgekd_dtype_bytes(tensor.dtype); }

    void* place(std::size_t bytes) {
        const std::size_t lines = (bytes + kBytes - 1) / kBytes;
        if (lines_.size() < lines) lines_.resize(lines);
        return lines_.data();
    }

    // The tensor where it is, or here if that is not aligned; with its values, if they are wanted.
    Tensor of(const Tensor& tensor, bool values) {
        if (is(tensor.data)) return tensor;
        Tensor moved = tensor;
        moved.data = place(bytes(tensor));
        if (values) std::memcpy(moved.data, tensor.data, bytes(tensor));
        return moved;
    }

  private:
    struct alignas(kBytes) Line {
        unsigned char bytes[kBytes];
    };

    std::vector<Line> lines_;
};

}  // namespace edgekd::core
