// SHA-256, by which a bundle knows its files, and SHA-512, which Ed25519 asks for.
#pragma once

#include <array>
#include <cstddef>
#include <string>

namespace edgekd::core {

using Octets64 = std::array<unsigned char, 64>;

// The digest of `size` bytes, as 64 hexadecimal digits. Source: FIPS 180-4, sections 5.1.1 and 6.2.2.
std::string sha256(const unsigned char* data, std::size_t size);
// Source: FIPS 180-4, sections 5.1.2 and 6.4.2.
Octets64 sha512(const unsigned char* data, std::size_t size);

}  // namespace edgekd::core
