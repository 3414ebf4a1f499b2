// Elements of a tensor as numbers, whatever their type.
#pragma once

#include <edgekd/edgekd.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace edgekd::core {

// binary16 to double. Source: IEEE 754-2019, section 3.4.
inline double half(std::uint16_t bits) noexcept {
    const int exponent = (bits >> 10) & 31;
    const double fraction = bits & 1023;
    const double size = exponent == 0    ? std::ldexp(fraction, -24)
                        : exponent == 31 ? (fraction != 0 ? std::nan("") : INFINITY)
                                         : std::ldexp(1024 + fraction, exponent - 25);
    return (bits & 0x8000) != 0 ? -size : size;
}

template <class T>
double as(const unsigned char* data) noexcept {
    T value;
    std::memcpy(&value, data, sizeof value);
    return static_cast<double>(value);
}

// Element `index` of a tensor that need not be aligned.
inline double element(const unsigned char* data, edgekd_dtype dtype, std::size_t index) noexcept {
    data += index * edgekd_dtype_bytes(dtype);
    switch (dtype) {
        case EDGEKD_FLOAT32: return as<float>(data);
        case EDGEKD_FLOAT64: return as<double>(data);
        case EDGEKD_FLOAT16: {
            std::uint16_t bits;
            std::memcpy(&bits, data, sizeof bits);
            return half(bits);
        }
        case EDGEKD_INT8: return as<std::int8_t>(data);
        case EDGEKD_UINT8:
        case EDGEKD_BOOL: return as<std::uint8_t>(data);
        case EDGEKD_INT16: return as<std::int16_t>(data);
        case EDGEKD_UINT16: return as<std::uint16_t>(data);
        case EDGEKD_INT32: return as<std::int32_t>(data);
        case EDGEKD_UINT32: return as<std::uint32_t>(data);
        case EDGEKD_INT64: return as<std::int64_t>(data);
        case EDGEKD_UINT64: return as<std::uint64_t>(data);
    }
    return std::nan("");
}

}  // namespace edgekd::core
