// The readers of a bundle on bytes that nobody chose: they refuse or read, and never look outside.
// With clang: -DEDGEKD_FUZZ=ON builds it for libFuzzer. Otherwise `fuzz N SEED FILE...` mutates the files N times.
// An input is one file of a bundle; or, with kCut between them, its signature, engine.json, device.json and golden.npz: then
// it gets a manifest with true digests, is opened on the null runtime, and tests itself.
#include "bundle.hpp"
#include "failure.hpp"
#include "json.hpp"
#include "npz.hpp"
#include "sha256.hpp"
#include "signature.hpp"

#include <edgekd/edgekd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

using edgekd::core::Bytes;

namespace {

constexpr std::string_view kCut = "\n%%\n";
std::size_t self_tests = 0;  // that passed

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

// One file of a bundle, whichever.
void one_file(Bytes bytes) {
    taken([&] { (void)edgekd::core::Npz(bytes); });
    taken([&] {
        const auto found = edgekd::core::Json::parse(bytes.text(), "x");
        taken([&] { (void)edgekd::core::Signature::read(found); });
        if (const auto* signature = found.find("signature")) taken([&] { (void)edgekd::core::Signature::read(*signature); });
    });
    taken([&] {  // as the manifest of a bundle that has every file
        const unsigned char* end = bytes.data + bytes.size;
        const edgekd_file files[] = {{"bundle.json", bytes.data, end}, {"engine/engine.json", bytes.data, end}, {"golden.npz", bytes.data, end}};
        (void)edgekd::core::Bundle(edgekd::core::Files::in_memory(files, 3), "x");
    });
}

// A status is good, or says why not.
bool good(const edgekd_status& status) {
    if (status.code != EDGEKD_OK && status.message[0] == '\0') std::abort();
    if (status.code == EDGEKD_INTERNAL) std::abort();
    return status.code == EDGEKD_OK;
}

// A bundle whose manifest is right but for the signature.
void whole_bundle(std::string_view signature, std::string_view engine, std::string_view device, std::string_view golden) {
    const std::array<std::pair<const char*, std::string_view>, 3> parts = {
        {{"engine/engine.json", engine}, {"engine/device.json", device}, {"golden.npz", golden}}};
    std::string manifest = "{\"format\": 1, \"tolerance\": {\"top1\": 1, \"absolute\": 1}, \"files\": {";
    std::vector<edgekd_file> files;
    for (const auto& [path, bytes] : parts) {
        const auto* begin = reinterpret_cast<const unsigned char*>(bytes.data());
        manifest += (files.empty() ? "\"" : ", \"") + std::string(path) + "\": \"" + edgekd::core::sha256(begin, bytes.size()) + '"';
        files.push_back({path, begin, begin + bytes.size()});
    }
    manifest += "}, \"signature\": " + std::string(signature) + '}';
    const auto* begin = reinterpret_cast<const unsigned char*>(manifest.data());
    files.push_back({"bundle.json", begin, begin + manifest.size()});
    edgekd_student* student = nullptr;
    if (!good(edgekd_open_files(files.data(), files.size(), nullptr, &student))) return;
    self_tests += good(edgekd_self_test(student, 0, nullptr)) ? 1 : 0;
    edgekd_close(student);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    one_file({data, size});
    std::string_view rest(reinterpret_cast<const char*>(data), size);
    std::array<std::string_view, 4> parts;
    for (std::size_t i = 0; i < 3; ++i) {
        const std::size_t cut = rest.find(kCut);
        if (cut == std::string_view::npos) return 0;
        parts[i] = rest.substr(0, cut);
        rest.remove_prefix(cut + kCut.size());
    }
    // Each part in memory of its own, so that a look beyond its end is seen.
    parts[3] = rest;
    std::array<std::vector<char>, 4> own;
    for (std::size_t i = 0; i < 4; ++i) {
        own[i].assign(parts[i].begin(), parts[i].end());
        parts[i] = {own[i].empty() ? "" : own[i].data(), own[i].size()};
    }
    whole_bundle(parts[0], parts[1], parts[2], parts[3]);
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
    std::printf("no crash, %zu bundles tested themselves\n", self_tests);
}
#endif
