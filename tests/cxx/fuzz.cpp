// The readers of a bundle on bytes that nobody chose: they refuse or read, and never look outside.
// With clang: -DEDGEKD_FUZZ=ON builds it for libFuzzer. Otherwise `fuzz N SEED FILE...` mutates the files N times.
#include "bundle.hpp"
#include "failure.hpp"
#include "json.hpp"
#include "npz.hpp"
#include "sha256.hpp"
#include "signature.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>

using edgekd::core::Bytes;

namespace {

template <class Read>
bool taken(Read&& read) {
    try {
        read();
        return true;
    } catch (const edgekd::core::Failure& failure) {
        if (failure.message.empty()) std::abort();
        return false;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const Bytes bytes{data, size};
    taken([&] { (void)edgekd::core::Npz(bytes); });
    taken([&] {
        const auto found = edgekd::core::Json::parse(bytes.text(), "x");
        taken([&] { (void)edgekd::core::Signature::read(found); });
        if (const auto* signature = found.find("signature")) taken([&] { (void)edgekd::core::Signature::read(*signature); });
    });
    taken([&] {  // as the manifest of a bundle that has every file
        const unsigned char* end = data + size;
        const edgekd_file files[] = {{"bundle.json", data, end}, {"engine/engine.json", data, end}, {"golden.npz", data, end}};
        (void)edgekd::core::Bundle(edgekd::core::Files::in_memory(files, 3), "x");
    });
    return 0;
}

#ifndef EDGEKD_LIBFUZZER
int main(int count, char** words) {
    if (count < 4) return 2;
    std::mt19937 random(static_cast<unsigned>(std::atoi(words[2])));
    const auto below = [&](std::size_t limit) { return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random); };
    for (int file = 3; file < count; ++file) {
        std::ifstream stream(words[file], std::ios::binary);
        const std::vector<std::uint8_t> seed((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
        if (seed.empty()) return 2;
        for (int i = 0; i < std::atoi(words[1]); ++i) {
            std::vector<std::uint8_t> bytes = seed;
            for (std::size_t change = 0; change <= below(4) && !bytes.empty(); ++change) {
                const std::size_t at = below(bytes.size()), to = below(bytes.size());
                switch (below(6)) {
                    case 0: bytes[at] = static_cast<std::uint8_t>(below(256)); break;
                    case 1: bytes[at] = static_cast<std::uint8_t>(bytes[at] ^ (1u << below(8))); break;
                    case 2: bytes.resize(at); break;
                    case 3: bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), bytes[to]); break;
                    case 4: bytes[at] = bytes[to]; break;
                    default: bytes[at] = static_cast<std::uint8_t>(below(2) == 0 ? 0xFF : 0x00);
                }
            }
            bytes.shrink_to_fit();  // so that a look beyond the end is seen
            LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
        }
    }
    std::printf("no crash\n");
}
#endif
