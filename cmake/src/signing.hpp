// Whether a bundle's manifest was signed by the owner of a key: edgekd/signing.py says how it is signed.
#pragma once

#include <string>
#include <string_view>

namespace edgekd::core {

// Check `signature`, the text of bundle.sig, against the bytes of bundle.json. `pem` is the public key as openssl and
// `edgekd keygen` write it. Failures: EDGEKD_INVALID_ARGUMENT for a key that is none, EDGEKD_WRONG_SIGNATURE.
void check_signature(std::string_view pem, std::string_view manifest, std::string_view signature, const std::string& where);

}  // namespace edgekd::core
