// bundle.sig and PEM keys: text to octets, then Ed25519.
#include "signing.hpp"

#include "ed25519.hpp"
#include "failure.hpp"
#include "json.hpp"
#include "sha2.hpp"

#include <algorithm>
#include <vector>

namespace edgekd::core {
namespace {

using Octets = std::vector<unsigned char>;

// What stands before the 32 octets of an Ed25519 key in a SubjectPublicKeyInfo. Source: RFC 8410, sections 4 and 10.1.
constexpr std::array<unsigned char, 12> kHeader = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};
constexpr std::string_view kBegin = "-----BEGIN PUBLIC KEY-----", kEnd = "-----END PUBLIC KEY-----";

// The octets of a public key in PEM: base64 between two lines (RFC 7468, section 13; RFC 4648, section 4).
Octets32 public_key_of(std::string_view pem) {
    const auto refuse = [] { fail(EDGEKD_INVALID_ARGUMENT, "the public key is no Ed25519 key in PEM, as `edgekd keygen KEY` writes into KEY.pub"); };
    constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const std::size_t begin = pem.find(kBegin), end = pem.find(kEnd);
    if (begin == pem.npos || end == pem.npos || end < begin + kBegin.size()) refuse();
    Octets found;
    unsigned held = 0, bits = 0;
    for (const char c : pem.substr(begin + kBegin.size(), end - begin - kBegin.size())) {
        const std::size_t digit = kDigits.find(c);
        if (digit == kDigits.npos) {
            if (std::string_view("=\r\n \t").find(c) == std::string_view::npos) refuse();
            continue;
        }
        held = held << 6 | static_cast<unsigned>(digit);
        if ((bits += 6) >= 8) found.push_back(static_cast<unsigned char>(held >> (bits -= 8) & 0xff));
    }
    Octets32 key{};
    if (found.size() != kHeader.size() + key.size() || !std::equal(kHeader.begin(), kHeader.end(), found.begin())) refuse();
    std::copy(found.begin() + kHeader.size(), found.end(), key.begin());
    return key;
}

// 128 hexadecimal digits; false for anything else.
bool octets_of(const std::string& text, Octets64& out) {
    if (text.size() != 2 * out.size()) return false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const std::size_t digit = std::string_view("0123456789abcdef").find(text[i]);
        if (digit == std::string_view::npos) return false;
        out[i / 2] = static_cast<unsigned char>(i % 2 == 0 ? digit << 4 : out[i / 2] | digit);
    }
    return true;
}

}  // namespace

void check_signature(std::string_view pem, std::string_view manifest, std::string_view signature, const std::string& where) {
    const Octets32 key = public_key_of(pem);
    const std::string id = sha256(key.data(), key.size()).substr(0, 16);
    const auto refuse = [&](const std::string& why) { fail(EDGEKD_WRONG_SIGNATURE, where + ": " + why); };
    if (signature.empty()) refuse("it is not signed; key " + id + " was asked for: edgekd sign BUNDLE --key KEY");
    std::string signer, wrong;
    Octets64 octets{};
    try {
        const Json found = Json::parse(signature, where + "/bundle.sig");
        signer = found.at("key").text();
        if (found.at("format").integer() != 1 || found.at("algorithm").text() != "Ed25519" || !octets_of(found.at("signature").text(), octets))
            wrong = "it is no Ed25519 signature of format 1";
    } catch (const Failure& failure) {
        wrong = failure.message;
    }
    if (!wrong.empty()) refuse("bundle.sig cannot be read: " + wrong);
    if (!ed25519_verifies(key, octets, manifest))
        refuse("the signature, of key " + signer + ", is not one of key " + id +
               (signer == id ? ": the bundle was changed after it was signed; copy it again" : ": give the key of who signed it"));
}

}  // namespace edgekd::core
