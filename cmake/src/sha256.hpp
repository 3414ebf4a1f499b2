// SHA-256, by which a bundle knows its files.
#pragma once

#include <cstddef>
#include <string>

namespace edgekd::core {

// The digest of `size` bytes, as 64 hexadecimal digits. Source: FIPS 180-4, sections 5.1.1 and 6.2.2.
std::string sha256(const unsigned char* data, std::size_t size);

}  // namespace edgekd::core
