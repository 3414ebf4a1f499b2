// The readers of what may come from anywhere: JSON, SHA-256, .npz; against the standards' own words and vectors.
#include "bundle.hpp"
#include "check.hpp"
#include "ed25519.hpp"
#include "failure.hpp"
#include "json.hpp"
#include "npz.hpp"
#include "sha2.hpp"
#include "signature.hpp"
#include "signing.hpp"

#include <cstring>
#include <fstream>
#include <iterator>

using edgekd::core::Json;

namespace {

std::string digest(const std::string& text) {
    return edgekd::core::sha256(reinterpret_cast<const unsigned char*>(text.data()), text.size());
}

// Examples of FIPS 180-4 as NIST publishes them with intermediate values, and the edges of one block and two.
void sha256() {
    CHECK(digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK(digest(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    for (const std::size_t size : {55u, 56u, 63u, 64u, 65u, 119u, 120u}) std::printf("sha256 %zu %s\n", size, digest(std::string(size, 'x')).c_str());
}

template <std::size_t N>
std::array<unsigned char, N> octets(const std::string& hex) {
    std::array<unsigned char, N> made{};
    for (std::size_t i = 0; i < N; ++i) made[i] = static_cast<unsigned char>(std::stoul(hex.substr(2 * i, 2), nullptr, 16));
    return made;
}

std::string bytes(const std::string& hex) {
    std::string made;
    for (std::size_t i = 0; i < hex.size(); i += 2) made.push_back(static_cast<char>(std::stoul(hex.substr(i, 2), nullptr, 16)));
    return made;
}

// Example of FIPS 180-4 as NIST publishes it; the others are compared with Python's.
void sha512() {
    CHECK(edgekd::core::sha512(reinterpret_cast<const unsigned char*>("abc"), 3) ==
          octets<64>("ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"));
    for (const std::size_t size : {0u, 111u, 112u, 127u, 128u, 129u, 1000u}) {
        const std::string text(size, 'x');
        std::printf("sha512 %zu ", size);
        for (const unsigned char one : edgekd::core::sha512(reinterpret_cast<const unsigned char*>(text.data()), size)) std::printf("%02x", one);
        std::printf("\n");
    }
}

// Tests 1, 2 and 3 of RFC 8032, section 7.1; and what must not pass.
void ed25519() {
    struct Vector {
        const char *key, *message, *signature;
    };
    const Vector vectors[] = {
        {"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
         "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"},
        {"3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
         "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"},
        {"fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
         "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"}};
    for (const Vector& one : vectors) {
        const auto key = octets<32>(one.key);
        const auto signature = octets<64>(one.signature);
        const std::string message = bytes(one.message);
        CHECK(edgekd::core::ed25519_verifies(key, signature, message));
        CHECK(!edgekd::core::ed25519_verifies(key, signature, message + '\0'));
        for (const std::size_t at : {0u, 31u, 32u, 63u}) {
            auto other = signature;
            other[at] = static_cast<unsigned char>(other[at] ^ 1);
            CHECK(!edgekd::core::ed25519_verifies(key, other, message));
        }
        auto larger = signature;  // S + L: the same point, and not to be taken (section 5.1.7, step 1)
        const auto order = octets<32>("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
        unsigned carry = 0;
        for (std::size_t i = 0; i < 32; ++i) {
            carry += larger[32 + i] + order[i];
            larger[32 + i] = static_cast<unsigned char>(carry & 0xff);
            carry >>= 8;
        }
        CHECK(!edgekd::core::ed25519_verifies(key, larger, message));
        for (const char* none : {"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",    // y = p
                                 "0200000000000000000000000000000000000000000000000000000000000000",    // no point has y = 2
                                 "0100000000000000000000000000000000000000000000000000000000000080"})  // x = 0, said to be odd
            CHECK(!edgekd::core::ed25519_verifies(octets<32>(none), signature, message));
    }
}

bool refused(const std::string& text) {
    try {
        Json::parse(text, "x");
    } catch (const edgekd::core::Failure& failure) {
        return failure.code == EDGEKD_DAMAGED && failure.message.find("x is damaged: byte ") == 0;
    }
    return false;
}

void json() {
    const Json found = Json::parse(R"( {"a": [1, -2.5e3, 0, true, false, null], "b": {"c": "\u00e9\n\ud83d\ude00\"\/"}, "": {}} )", "x");
    CHECK(found.at("a").list().size() == 6);
    CHECK(found.at("a").list()[0].integer() == 1);
    CHECK(found.at("a").list()[1].number() == -2500.0);
    CHECK(found.at("a").list()[3].boolean() && !found.at("a").list()[4].boolean());
    CHECK(found.at("a").list()[5].is(Json::Kind::null));
    CHECK(found.at("b").at("c").text() == "\xc3\xa9\n\xf0\x9f\x98\x80\"/");
    CHECK(found.find("z") == nullptr && found.find("") != nullptr);
    CHECK(Json::parse("1e-400", "x").number() == 0.0);
    CHECK(Json::parse("\"\xe2\x82\xac\xf4\x8f\xbf\xbf\"", "x").text().size() == 7);
    CHECK(Json::parse(std::string(64, '[') + std::string(64, ']'), "x").is(Json::Kind::list));
    const char* wrong[] = {"",        " ",         "{",        "[1,]",      "[1 2]",      "{\"a\" 1}",   "{\"a\":1,}", "{a:1}",
                           "01",      "1.",        ".5",       "-",         "+1",         "1e",          "1e400",      "NaN",
                           "Infinity", "tru",      "nul",      "\"",        "\"\\x\"",    "\"\\u12g4\"", "\"\\ud800\"", "\"\\ud800\\u0041\"",
                           "\"\\udc00\"", "\"\t\"", "\"\xff\"", "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xe2\x82\"", "1 2",
                           "{\"a\":1,\"a\":2}", "[", "]", "// x\n1", "'a'"};
    for (const char* text : wrong) {
        if (!refused(text)) std::fprintf(stderr, "taken: %s\n", text);
        CHECK(refused(text));
    }
    CHECK(refused(std::string(66, '[') + std::string(66, ']')));
    CHECK(refused(std::string(1000000, '[')));
    CHECK(refused(std::string("\"\0\"", 3)));
}

// Sizes of the same name are one; sizes without a name may differ.
void sizes() {
    const auto taken = [](const char* shape, std::int64_t rows, std::int64_t columns) {
        const std::string port = "\"name\": \"x\", \"dtype\": \"float32\", \"shape\": " + std::string(shape);
        const std::string text = "{\"inputs\": [{" + port + "}], \"outputs\": [{\"name\": \"y\", \"dtype\": \"float32\", \"shape\": [1]}]}";
        const auto signature = edgekd::core::Signature::read(Json::parse(text, "x"));
        std::vector<float> x(static_cast<std::size_t>(rows * columns)), y(1);
        const std::int64_t given[] = {rows, columns};
        const edgekd_const_tensor in = {x.data(), x.size(), EDGEKD_FLOAT32, given, 2};
        const edgekd_tensor out = {y.data(), 1, EDGEKD_FLOAT32, nullptr, 0};
        edgekd::core::Call call = signature.call();
        try {
            signature.check(&in, 1, &out, 1, call);
        } catch (const edgekd::core::Failure& failure) {
            return failure.code != EDGEKD_INVALID_ARGUMENT;
        }
        return true;
    };
    CHECK(taken("[\"n\", \"n\"]", 3, 3) && !taken("[\"n\", \"n\"]", 3, 4));
    CHECK(taken("[\"n\", \"m\"]", 3, 4) && taken("[null, null]", 3, 4) && taken("[\"\", \"\"]", 3, 4) && taken("[-1, -1]", 3, 4));
}

// A line a signature, "key message- signature" in hexadecimal: says which pass, for Python to compare with another's words.
void signatures(const char* path) {
    std::ifstream stream(path);
    for (std::string key, message, signature; stream >> key >> message >> signature;)
        std::printf("signed %d\n", edgekd::core::ed25519_verifies(octets<32>(key), octets<64>(signature), bytes(message.substr(0, message.size() - 1))) ? 1 : 0);
}

// Prints the arrays of the file, for Python to compare with what it wrote.
void npz(const char* path) {
    std::ifstream stream(path, std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    const edgekd::core::Npz found({reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()});
    for (const char* name : {"inputs", "outputs"}) {
        const edgekd::core::Array& array = found.at(name);
        std::printf("npz %s %s", name, edgekd_dtype_name(array.dtype));
        for (const std::int64_t size : array.shape) std::printf(" %lld", static_cast<long long>(size));
        std::printf(" %s\n", edgekd::core::sha256(array.bytes.data, array.bytes.size).c_str());
    }
}

}  // namespace

int main(int count, char** words) {
    sha256();
    sha512();
    ed25519();
    json();
    sizes();
    if (count >= 2) npz(words[1]);
    if (count >= 3) signatures(words[2]);
    return failures == 0 ? 0 : 1;
}
