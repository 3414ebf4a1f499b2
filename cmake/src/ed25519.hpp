// Ed25519: whether a message is signed by the owner of a public key.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace edgekd::core {

using Octets32 = std::array<unsigned char, 32>;
using Octets64 = std::array<unsigned char, 64>;

// Source: FIPS 180-4, sections 4.1.3, 4.2.3, 5.1.2 and 6.4.2.
Octets64 sha512(const unsigned char* data, std::size_t size);

// Source: RFC 8032, section 5.1.7, without multiplying by the cofactor. Verifying handles no secret, so its time may depend
// on the numbers.
bool ed25519_verifies(const Octets32& public_key, const Octets64& signature, std::string_view message);

}  // namespace edgekd::core
