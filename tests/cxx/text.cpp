// text CASES.json: each case's text as the inputs of its student, a line of numbers each, written beside it; or "refused: " and
// why. text tables OUT: of every character its kind, what is left of it without marks, and its lower case.
#include "failure.hpp"
#include "tokenizer.hpp"
#include "unicode.hpp"

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

using edgekd::core::Json;
namespace core = edgekd::core;

namespace {

std::string read(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::string made(const Json& one, const std::filesystem::path& folder, const core::Tokenizer::Held& held) {
    const Json& about = one.at("signature");
    const core::Signature signature = core::Signature::read(about);
    const core::Tokenizer tokenizer(about, held);
    const std::string text = read(folder / one.at("text").text());
    const bool two = one.at("pair").is(Json::Kind::text);
    const std::string pair = two ? read(folder / one.at("pair").text()) : "";
    const std::string_view second = pair;
    const core::Tokenizer::Text found = tokenizer.read(signature.inputs, text, two ? &second : nullptr);
    std::string lines;
    for (const core::Port& port : signature.inputs) {
        std::vector<std::int64_t> room(found.length);
        tokenizer.fill(found, port, room.data());
        for (std::size_t i = 0; i < found.length; ++i) {
            std::int32_t small = 0;
            std::memcpy(&small, reinterpret_cast<const char*>(room.data()) + 4 * i, sizeof small);
            lines += std::to_string(port.dtype == EDGEKD_INT64 ? room[i] : small) + ' ';
        }
        lines += '\n';
    }
    return lines;
}

int tables(const char* out) {
    std::ofstream stream(out, std::ios::binary);
    std::u32string made;
    for (char32_t character = 0; character < 0x110000; ++character) {
        std::string line(1, static_cast<char>('0' + static_cast<int>(core::kind(character))));
        made.clear();
        core::without_marks(character, made);
        for (const char32_t one : made) core::put_utf8(one, line);
        line += '\0';
        made.clear();
        core::lower(character, made);
        for (const char32_t one : made) core::put_utf8(one, line);
        stream << line << '\xff';  // in no UTF-8
    }
    return stream.flush() ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
    if (count == 3 && std::strcmp(words[1], "tables") == 0) return tables(words[2]);
    if (count != 2) return 2;
    const std::filesystem::path file = words[1];
    const std::string text = read(file);
    const Json cases = Json::parse(text, "cases");
    core::Tokenizer::Held held;
    for (const Json& name : cases.at("held").list()) {
        const std::string bytes = read(file.parent_path() / name.text());
        held[name.text()].assign(bytes.begin(), bytes.end());
    }
    for (const Json& one : cases.at("cases").list()) {
        std::string found;
        try {
            found = made(one, file.parent_path(), held);
        } catch (const core::Failure& failure) {
            found = "refused: " + failure.message;
        }
        std::ofstream(file.parent_path() / one.at("out").text(), std::ios::binary) << found;
    }
    return 0;
}
