// Reading a bundle: who signed it, then the format, every file against its digest, the signature and the engine's facts.
#include "bundle.hpp"

#include "failure.hpp"
#include "sha2.hpp"
#include "signing.hpp"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <system_error>

namespace edgekd::core {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifest = "bundle.json";
constexpr const char* kSignature = "bundle.sig";  // of the manifest: not listed in it
constexpr const char* kAgain = "; copy or compile the bundle again";

[[noreturn]] void damaged(const std::string& where, const std::string& what) {
    fail(EDGEKD_DAMAGED, where + ": " + what + kAgain);
}

std::vector<unsigned char> read(const fs::path& path, std::uintmax_t size) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    std::vector<unsigned char> bytes(static_cast<std::size_t>(size));
    if (file == nullptr || std::fread(bytes.data(), 1, bytes.size(), file.get()) != bytes.size())
        fail(EDGEKD_DAMAGED, path.string() + " cannot be read");
    return bytes;
}

void check_digests(const Files& files, const Json& listed, const std::string& where) {
    for (const auto& [path, digest] : listed.members()) {
        const Bytes* found = path == kManifest || path == kSignature ? nullptr : files.find(path);
        if (found == nullptr) damaged(where, path + " is missing");
        if (sha256(found->data, found->size) != digest.text()) damaged(where, path + " was changed");
    }
    for (const auto& [path, bytes] : files.all())
        if (path != kManifest && path != kSignature && listed.find(path) == nullptr) damaged(where, path + " is not of the bundle");
}

void check_format(const Json& manifest, const std::string& where) {
    const long long format = manifest.at("format").integer();
    if (format == EDGEKD_BUNDLE_FORMAT) return;
    const Json* writer = manifest.find("edgekd");
    const std::string version = writer != nullptr && writer->is(Json::Kind::text) ? writer->text() : "";
    fail(EDGEKD_NEWER_FORMAT,
         where + ": bundle format " + std::to_string(format) + (version.empty() ? "" : ", written by edgekd " + version) +
             "; this library reads format " + std::to_string(EDGEKD_BUNDLE_FORMAT) + ": build against the edgekd that wrote it" +
             (version.empty() ? "" : ": pip install edgekd==" + version));
}

}  // namespace

Files Files::in_folder(const std::string& folder) {
    const fs::path root(folder);
    std::error_code error;
    if (!fs::is_regular_file(root / kManifest, error))
        fail(EDGEKD_NOT_FOUND, folder + ": not a bundle: no bundle.json; a bundle is a folder that `edgekd compile` writes");
    Files made;
    for (fs::recursive_directory_iterator at(root, error), end; !error && at != end; at.increment(error)) {
        if (!at->is_regular_file(error) || error) continue;
        const std::uintmax_t size = at->file_size(error);
        if (error) break;
        made.owned_.push_back(read(at->path(), size));
        const std::vector<unsigned char>& bytes = made.owned_.back();
        made.files_[at->path().lexically_relative(root).generic_string()] = {bytes.data(), bytes.size()};
    }
    if (error) fail(EDGEKD_DAMAGED, folder + " cannot be read: " + error.message());
    return made;
}

Files Files::in_memory(const edgekd_file* files, std::size_t count) {
    if (files == nullptr && count != 0) fail(EDGEKD_INVALID_ARGUMENT, "the files are a null pointer");
    Files made;
    for (std::size_t i = 0; i < count; ++i) {
        const edgekd_file& file = files[i];
        if (file.path == nullptr || file.begin == nullptr || file.end < file.begin)
            fail(EDGEKD_INVALID_ARGUMENT, "file " + std::to_string(i) + " has a null pointer, or ends before it begins");
        made.files_[file.path] = {file.begin, static_cast<std::size_t>(file.end - file.begin)};
    }
    return made;
}

const Bytes* Files::find(const std::string& path) const {
    const auto found = files_.find(path);
    return found != files_.end() ? &found->second : nullptr;
}

Bundle::Bundle(const Files& files, const std::string& where, const char* public_key) {
    const auto needed = [&](const std::string& path) -> const Bytes& {
        const Bytes* found = files.find(path);
        if (found == nullptr) damaged(where, path + " is missing");
        return *found;
    };
    if (files.find(kManifest) == nullptr) fail(EDGEKD_NOT_FOUND, where + ": not a bundle: no bundle.json");
    if (public_key != nullptr) {
        const Bytes* signed_by = files.find(kSignature);
        check_signature(public_key, needed(kManifest).text(), signed_by != nullptr ? signed_by->text() : "", where);
    }
    manifest = Json::parse(needed(kManifest).text(), where + "/bundle.json");
    check_format(manifest, where);
    check_digests(files, manifest.at("files"), where);
    signature = Signature::read(manifest.at("signature"));
    if (const Json* found = manifest.find("name")) name = found->text();
    engine = Json::parse(needed("engine/engine.json").text(), where + "/engine/engine.json");
    backend = engine.at("backend").text();
    engine_file = needed("engine/" + engine.at("file").text());
    golden = needed("golden.npz");
}

}  // namespace edgekd::core
