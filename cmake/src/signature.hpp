// Signature: what a student takes and gives, as bundle.json says, and whether a call's tensors are that.
#pragma once

#include "json.hpp"

#include <edgekd/edgekd.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace edgekd::core {

constexpr std::size_t kMostDimensions = 8;

// A dtype by the name that numpy and bundle.json give it. A Failure of EDGEKD_DAMAGED for another.
edgekd_dtype dtype_named(const std::string& name);

// The product, or SIZE_MAX if it does not fit: a size may be one that a machine of 32 bits cannot count.
inline std::size_t product(std::size_t a, std::uint64_t b) noexcept {
    constexpr std::size_t kMost = std::numeric_limits<std::size_t>::max();
    return a != 0 && b > kMost / a ? kMost : a * static_cast<std::size_t>(b);
}

// One tensor of a call that was checked: every size is known.
struct Tensor {
    void* data = nullptr;  // of an input: only read
    edgekd_dtype dtype = EDGEKD_FLOAT32;
    std::size_t rank = 0;
    std::int64_t shape[kMostDimensions] = {};
    std::size_t count = 0;
};

// One input or output.
struct Port {
    static constexpr std::size_t kFixed = std::numeric_limits<std::size_t>::max();

    std::string name;
    edgekd_dtype dtype = EDGEKD_FLOAT32;
    std::vector<std::int64_t> shape;    // -1 where a size is dynamic
    std::vector<std::size_t> symbols;   // which dynamic size it is; kFixed where it is not
    std::size_t count = 0;              // elements; 0 if a size is dynamic
};

// A call's tensors as the runtime gets them. Made once; filling it again allocates nothing.
struct Call {
    std::vector<Tensor> inputs;
    std::vector<Tensor> outputs;
    std::vector<std::int64_t> sizes;  // of the dynamic dimensions in this call; 0: not known yet
};

struct Signature {
    std::vector<Port> inputs;
    std::vector<Port> outputs;
    std::vector<std::string> symbols;  // names of the dynamic sizes
    std::vector<std::string> labels;
    std::vector<std::pair<std::string, std::vector<double>>> constants;  // numbers of the preprocessing
    std::vector<std::pair<std::string, std::string>> settings;           // texts of the preprocessing

    // From the "signature" of bundle.json.
    static Signature read(const Json& found);

    Call call() const;
    // Check the tensors of a call and put them into `call`. A Failure of EDGEKD_INVALID_ARGUMENT names the first that is
    // not what the signature says.
    void check(const edgekd_const_tensor* given_inputs, std::size_t input_count, const edgekd_tensor* given_outputs,
               std::size_t output_count, Call& call) const;
};

}  // namespace edgekd::core
