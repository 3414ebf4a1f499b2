// processing CASES.json: each case's raw data through preprocess or postprocess, what came of it written beside it: the
// bytes of the input, or lines "index score's bits label"; or, for one that is refused, "refused: " and why.
#include "failure.hpp"
#include "processing.hpp"

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

std::string made(const Json& one, const std::filesystem::path& folder) {
    const Json& about = one.at("signature");
    const core::Signature signature = core::Signature::read(about);
    const std::string bytes = read(folder / one.at("raw").text());
    std::vector<double> aligned(bytes.size() / sizeof(double) + 1);
    std::memcpy(aligned.data(), bytes.data(), bytes.size());
    std::vector<std::int64_t> shape;
    for (const Json& size : one.at("shape").list()) shape.push_back(size.integer());
    const edgekd_dtype dtype = core::dtype_named(one.at("dtype").text());
    const edgekd_const_tensor raw = {aligned.data(), bytes.size() / edgekd_dtype_bytes(dtype), dtype, shape.data(), shape.size()};
    if (one.at("do").text() == "preprocess") {
        const core::Port& port = signature.inputs[0];
        std::vector<double> room(port.count);
        const edgekd_tensor input = {room.data(), port.count, port.dtype, nullptr, 0};
        core::preprocess(about, signature.inputs, raw, input);
        return {reinterpret_cast<const char*>(room.data()), port.count * edgekd_dtype_bytes(port.dtype)};
    }
    std::vector<edgekd_class> classes(raw.count);
    const std::size_t count = core::postprocess(about, signature.labels, raw, classes.data(), classes.size());
    std::string text;
    for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, &classes[i].score, sizeof bits);
        text += std::to_string(classes[i].index) + ' ' + std::to_string(bits) + ' ' + (classes[i].label != nullptr ? classes[i].label : "-") + '\n';
    }
    return text;
}

}  // namespace

int main(int count, char** words) {
    if (count != 2) return 2;
    const std::filesystem::path file = words[1];
    const std::string text = read(file);
    const Json cases = Json::parse(text, "cases");
    for (const Json& one : cases.list()) {
        std::string found;
        try {
            found = made(one, file.parent_path());
        } catch (const core::Failure& failure) {
            found = "refused: " + failure.message;
        }
        std::ofstream(file.parent_path() / one.at("out").text(), std::ios::binary) << found;
    }
    return 0;
}
