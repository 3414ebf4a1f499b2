// Bundle: the files of a bundle, checked against their digests, and what bundle.json says of them.
#pragma once

#include "json.hpp"
#include "signature.hpp"

#include <edgekd/edgekd.h>

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace edgekd::core {

// Bytes that someone else owns.
struct Bytes {
    const unsigned char* data = nullptr;
    std::size_t size = 0;

    std::string_view text() const noexcept { return {reinterpret_cast<const char*>(data), size}; }
};

// Every file of a bundle by its path inside it. Files of a folder are read whole; those in memory are looked at in place.
class Files {
  public:
    Files() = default;
    Files(Files&&) = default;  // not copied: the bytes are looked at where they are
    Files& operator=(Files&&) = default;
    static Files in_folder(const std::string& folder);
    static Files in_memory(const edgekd_file* files, std::size_t count);

    // Null if there is none.
    const Bytes* find(const std::string& path) const;
    const std::map<std::string, Bytes>& all() const noexcept { return files_; }

  private:
    std::map<std::string, Bytes> files_;
    std::vector<std::vector<unsigned char>> owned_;
};

struct Bundle {
    // Check `files` and read the manifest. `where` names the bundle in messages; `public_key`, a PEM text, is who must have
    // signed it, if not null. Failures: EDGEKD_NOT_FOUND, EDGEKD_DAMAGED, EDGEKD_NEWER_FORMAT, EDGEKD_WRONG_SIGNATURE.
    Bundle(const Files& files, const std::string& where, const char* public_key = nullptr);

    Json manifest;  // bundle.json
    Json engine;    // engine/engine.json
    Signature signature;
    std::string name;
    std::string backend;
    Bytes engine_file;  // into the Files
    Bytes golden;       // golden.npz, into the Files
};

}  // namespace edgekd::core
