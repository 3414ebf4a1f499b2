// The readers of what may come from anywhere: JSON, SHA-256, .npz; against the standards' own words and vectors.
#include "bundle.hpp"
#include "check.hpp"
#include "failure.hpp"
#include "json.hpp"
#include "npz.hpp"
#include "sha256.hpp"

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
    json();
    if (count == 2) npz(words[1]);
    return failures == 0 ? 0 : 1;
}
