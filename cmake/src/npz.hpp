// Npz: the arrays in golden.npz, as numpy.savez writes them: a zip of .npy files, stored, not compressed.
#pragma once

#include "bundle.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace edgekd::core {

// One array, C order, in memory that someone else owns and that need not be aligned.
struct Array {
    edgekd_dtype dtype = EDGEKD_FLOAT32;
    std::vector<std::int64_t> shape;
    std::size_t count = 0;
    Bytes bytes;
};

// Formats: the zip appnote 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16; numpy's NEP 1. Everything else is EDGEKD_DAMAGED.
class Npz {
  public:
    explicit Npz(Bytes bytes);

    const Array& at(const std::string& name) const;

  private:
    std::vector<std::pair<std::string, Array>> arrays_;
};

}  // namespace edgekd::core
