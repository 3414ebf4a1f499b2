// Ed25519: whether a message is signed by the owner of a public key.
#pragma once

#include "sha2.hpp"

#include <array>
#include <cstddef>
#include <string_view>

namespace edgekd::core {

using Octets32 = std::array<unsigned char, 32>;

// Source: RFC 8032, section 5.1.7, without multiplying by the cofactor. Verifying handles no secret, so its time may depend
// on the numbers.
bool ed25519_verifies(const Octets32& public_key, const Octets64& signature, std::string_view message);

}  // namespace edgekd::core
