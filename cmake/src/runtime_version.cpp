// Versions by their first two numbers: "2026.4.1-…" and "2026.4" are of one age.
#include "runtime_version.hpp"

#include "failure.hpp"

#include <array>
#include <cstdio>

namespace edgekd::core {
namespace {

// Major and minor of "1.31.1"; {0, 0} for what is no version.
std::array<int, 2> minor_version(const char* text) noexcept {
    std::array<int, 2> found{0, 0};
    if (std::sscanf(text, "%d.%d", &found[0], &found[1]) != 2) return {0, 0};
    return found;
}

}  // namespace

std::string compiled_with(const Opening& opening, const char* package) {
    const Json* versions = opening.bundle.engine.find("versions");
    const Json* version = versions != nullptr ? versions->find(package) : nullptr;
    return version != nullptr ? version->text() : "";
}

std::string install(const Opening& opening, const char* package) {
    const std::string version = compiled_with(opening, package);
    return std::string("pip install ") + package + (version.empty() ? "" : "==" + version);
}

int threads_said(const Json& where, const char* key) {
    constexpr long long kMost = 4096;
    const long long found = where.at(key).integer();
    if (found < 0 || found > kMost) fail(EDGEKD_DAMAGED, "engine.json: " + std::string(key) + " of " + std::to_string(found) + "; copy or compile the bundle again");
    return static_cast<int>(found);
}

int threads_of(const Opening& opening, const Json& where, const char* key) {
    return opening.threads > 0 ? opening.threads : threads_said(where, key);
}

void refuse_older(const Opening& opening, const char* package, const char* loaded, const std::string& path) {
    const std::string compiled = compiled_with(opening, package);
    if (opening.any_version || minor_version(loaded) >= minor_version(compiled.c_str())) return;
    fail(EDGEKD_OTHER_RUNTIME, std::string("the bundle was compiled with ") + package + ' ' + compiled + "; " + path + " is " +
                                   loaded + ": " + install(opening, package) +
                                   ", or compile the bundle again with the older one: edgekd compile recipe.toml");
}

}  // namespace edgekd::core
