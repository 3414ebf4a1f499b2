// The readers of a bundle on bytes that nobody chose: they refuse or read, and never look outside.
// With clang: -DEDGEKD_FUZZ=ON builds it for libFuzzer. Otherwise `fuzz N SEED FILE...` mutates the files N times.
// An input is one file of a bundle; or, with kCut between them, its signature, engine.json, device.json and golden.npz, and where
// they are wanted bundle.sig, vocab.txt and raw data: then it gets a manifest with true digests, is opened on the null runtime,
// with a key and without, prepares the raw data, reads them as text, and tests itself.
#include "bundle.hpp"
#include "failure.hpp"
#include "json.hpp"
#include "npz.hpp"
#include "sha2.hpp"
#include "signature.hpp"

#include <edgekd/edgekd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

using edgekd::core::Bytes;

namespace {

constexpr std::string_view kCut = "\n%%\n";
std::size_t self_tests = 0, prepared = 0, read_texts = 0;  // that went well
// Of the key of RFC 8032, section 7.1, test 1: signs nothing here.
constexpr const char* kKey = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

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

// A bundle whose manifest is right but for the signature. Its parts, the last of which may be empty:
enum Part : std::size_t { kSignature, kEngine, kDevice, kGolden, kSigned, kVocabulary, kRaw, kParts };
using Parts = std::array<std::string_view, kParts>;

// Raw data of every kind through what stands before the engine, and as an output through what stands behind. They lie in memory
// of their own, aligned for every type.
void around(edgekd_student* student, std::string_view raw) {
    constexpr std::size_t kMost = 4096;
    std::vector<std::vector<double>> rooms;  // of doubles, so that every type is aligned
    std::vector<edgekd_tensor> inputs;
    for (std::size_t i = 0; i < edgekd_input_count(student); ++i) {
        edgekd_port port{};
        if (!good(edgekd_input_port(student, i, &port))) std::abort();
        const std::size_t count = port.count != 0 ? port.count : 64;
        if (count > kMost) return;
        rooms.emplace_back(count);
        inputs.push_back({rooms.back().data(), count, port.dtype, nullptr, 0});
    }
    const auto byte = [&](std::size_t at) { return at < raw.size() ? static_cast<unsigned char>(raw[at]) : std::size_t{0}; };
    const std::size_t height = 1 + byte(0) % 16, width = 1 + byte(1) % 16;
    for (const edgekd_dtype dtype : {EDGEKD_UINT8, EDGEKD_FLOAT32, EDGEKD_INT16}) {
        const std::size_t count = raw.size() / edgekd_dtype_bytes(dtype);
        const std::int64_t shape[] = {static_cast<std::int64_t>(height), static_cast<std::int64_t>(width), static_cast<std::int64_t>(count / height / width)};
        const edgekd_const_tensor flat = {raw.data(), count, dtype, nullptr, 0};
        const edgekd_const_tensor image = {raw.data(), height * width * static_cast<std::size_t>(shape[2]), dtype, shape, 3};
        prepared += good(edgekd_preprocess(student, &flat, &inputs[0])) ? 1 : 0;
        prepared += good(edgekd_preprocess(student, &image, &inputs[0])) ? 1 : 0;
    }
    edgekd_class classes[8];
    std::size_t room = 8;
    const edgekd_const_tensor output = {raw.data(), raw.size() / sizeof(float), EDGEKD_FLOAT32, nullptr, 0};
    prepared += good(edgekd_postprocess(student, &output, classes, &room)) ? 1 : 0;
    const char* text = raw.data();
    const std::size_t half = raw.size() / 2;
    for (const char* pair : {static_cast<const char*>(nullptr), text + half}) {
        std::size_t length = 0;
        read_texts += good(edgekd_tokenize(student, text, pair == nullptr ? raw.size() : half, pair, raw.size() - half, inputs.data(), inputs.size(), &length)) ? 1 : 0;
    }
}

void whole_bundle(const Parts& parts) {
    const std::array<std::pair<const char*, std::string_view>, 4> listed = {{{"engine/engine.json", parts[kEngine]},
                                                                            {"engine/device.json", parts[kDevice]},
                                                                            {"golden.npz", parts[kGolden]},
                                                                            {"tokenizer/vocab.txt", parts[kVocabulary]}}};
    std::string manifest = "{\"format\": 1, \"tolerance\": {\"top1\": 1, \"absolute\": 1}, \"files\": {";
    std::vector<edgekd_file> files;
    const auto add = [&](const char* path, std::string_view bytes) {
        const auto* begin = reinterpret_cast<const unsigned char*>(bytes.data());
        files.push_back({path, begin, begin + bytes.size()});
        return begin;
    };
    for (const auto& [path, bytes] : listed) {
        manifest += files.empty() ? "\"" : ", \"";
        manifest += std::string(path) + "\": \"" + edgekd::core::sha256(add(path, bytes), bytes.size()) + '"';
    }
    manifest += "}, \"signature\": " + std::string(parts[kSignature]) + '}';
    add("bundle.json", manifest);
    add("bundle.sig", parts[kSigned]);
    edgekd_student* student = nullptr;
    const std::string own_key(parts[kSigned]);
    for (const char* key : {kKey, own_key.c_str()}) {  // as what signed it, and as the key that is asked for
        edgekd_options options{};
        options.public_key = key;
        if (good(edgekd_open_files(files.data(), files.size(), &options, &student))) std::abort();
    }
    if (!good(edgekd_open_files(files.data(), files.size(), nullptr, &student))) return;
    around(student, parts[kRaw]);
    self_tests += good(edgekd_self_test(student, 0, nullptr)) ? 1 : 0;
    edgekd_close(student);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    one_file({data, size});
    std::string_view rest(reinterpret_cast<const char*>(data), size);
    // Each part in memory of its own, so that a look beyond its end is seen.
    std::array<std::vector<char>, kParts> own;
    Parts parts;
    std::size_t count = 0;
    for (bool more = true; more && count < kParts; ++count) {
        const std::size_t cut = rest.find(kCut);
        more = cut != std::string_view::npos;
        const std::string_view part = rest.substr(0, cut);
        own[count].assign(part.begin(), part.end());
        if (more) rest.remove_prefix(cut + kCut.size());
    }
    if (count <= kGolden) return 0;
    for (std::size_t i = 0; i < kParts; ++i) parts[i] = {own[i].empty() ? "" : own[i].data(), own[i].size()};
    whole_bundle(parts);
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
    std::printf("no crash, %zu bundles tested themselves, %zu times raw data were prepared, %zu texts were read\n", self_tests, prepared, read_texts);
}
#endif
