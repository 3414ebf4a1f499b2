// The reader of golden.npz: the zip's directory from its end, then each .npy's header.
#include "npz.hpp"

#include "failure.hpp"

#include <array>
#include <limits>
#include <string_view>

namespace edgekd::core {
namespace {

[[noreturn]] void refuse(const std::string& why) {
    fail(EDGEKD_DAMAGED, "golden.npz: " + why + "; copy or compile the bundle again");
}

Bytes part(Bytes whole, std::size_t from, std::size_t size) {
    if (from > whole.size || size > whole.size - from) refuse("it ends too early");
    return {whole.data + from, size};
}

// A little-endian number of `size` bytes at `from`.
std::size_t number(Bytes whole, std::size_t from, std::size_t size) {
    const Bytes found = part(whole, from, size);
    std::size_t value = 0;
    for (std::size_t i = size; i-- > 0;) value = value << 8 | found.data[i];
    return value;
}

// What numpy calls a dtype in a header: "<f4" is float32.
std::string descr_of(edgekd_dtype dtype) {
    const std::size_t bytes = edgekd_dtype_bytes(dtype);
    return std::string(bytes == 1 ? "|" : "<") + edgekd_dtype_name(dtype)[0] + std::to_string(bytes);
}

// What stands between `before` and `after` in an .npy header.
std::string_view between(std::string_view header, std::string_view before, std::string_view after) {
    const std::size_t from = header.find(before);
    if (from == std::string_view::npos) refuse("an array's header lacks a field");
    const std::size_t end = header.find(after, from + before.size());
    if (end == std::string_view::npos) refuse("an array's header lacks a field");
    return header.substr(from + before.size(), end - from - before.size());
}

std::vector<std::int64_t> shape_of(std::string_view text) {
    std::vector<std::int64_t> shape;
    std::int64_t size = -1;
    for (const char c : text) {
        if (c >= '0' && c <= '9') {
            size = (size < 0 ? 0 : size) * 10 + (c - '0');
            if (size > std::numeric_limits<std::int32_t>::max()) refuse("an array is too large");
        } else if (c == ',') {
            if (size < 0) refuse("an array's shape cannot be read");
            shape.push_back(size);
            size = -1;
        } else if (c != ' ') {
            refuse("an array's shape cannot be read");
        }
    }
    if (size >= 0) shape.push_back(size);
    return shape;
}

Array array_of(Bytes npy) {
    if (part(npy, 0, 6).text() != "\x93NUMPY") refuse("it holds what is no array");
    const std::size_t length = npy.size > 6 && npy.data[6] == 1 ? 2 : 4;  // version 1, else 2 or 3
    const std::string_view header = part(npy, 8 + length, number(npy, 8, length)).text();
    Array found;
    const std::string_view descr = between(header, "'descr': '", "'");
    bool known = false;
    for (int one = EDGEKD_FLOAT32; one <= EDGEKD_BOOL; ++one)
        if (descr_of(static_cast<edgekd_dtype>(one)) == descr) {
            found.dtype = static_cast<edgekd_dtype>(one);
            known = true;
        }
    if (!known) refuse("an array is of type " + std::string(descr));
    if (between(header, "'fortran_order': ", ",") != "False") refuse("an array is in Fortran order");
    found.shape = shape_of(between(header, "'shape': (", ")"));
    found.count = 1;
    for (const std::int64_t size : found.shape) found.count = product(found.count, static_cast<std::size_t>(size));
    const std::size_t from = 8 + length + header.size();
    found.bytes = part(npy, from, npy.size - from);
    if (product(found.count, edgekd_dtype_bytes(found.dtype)) != found.bytes.size) refuse("an array is not as large as its shape");
    return found;
}

}  // namespace

Npz::Npz(Bytes bytes) {
    constexpr std::size_t kEnd = 22;   // the record at the end, without a comment
    constexpr std::size_t kEntry = 46;  // one entry of the directory, without its name
    constexpr std::size_t kLocal = 30;  // the header before the file itself
    if (bytes.size < kEnd || part(bytes, bytes.size - kEnd, 4).text() != std::string_view("PK\5\6", 4)) refuse("it is no zip file");
    const std::size_t end = bytes.size - kEnd;
    const std::size_t entries = number(bytes, end + 10, 2);
    std::size_t at = number(bytes, end + 16, 4);
    for (std::size_t i = 0; i < entries; ++i) {
        if (part(bytes, at, 4).text() != std::string_view("PK\1\2", 4)) refuse("its directory is damaged");
        if (number(bytes, at + 10, 2) != 0 || (number(bytes, at + 8, 2) & 1) != 0) refuse("it is compressed or encrypted");
        const std::size_t size = number(bytes, at + 20, 4);
        const std::size_t name = number(bytes, at + 28, 2);
        const std::size_t local = number(bytes, at + 42, 4);
        std::string path(part(bytes, at + kEntry, name).text());
        if (part(bytes, local, 4).text() != std::string_view("PK\3\4", 4)) refuse("its directory is damaged");
        const std::size_t from = local + kLocal + number(bytes, local + 26, 2) + number(bytes, local + 28, 2);
        if (path.size() < 4 || path.compare(path.size() - 4, 4, ".npy") != 0) refuse("it holds what is no array");
        path.resize(path.size() - 4);
        arrays_.emplace_back(std::move(path), array_of(part(bytes, from, size)));
        at += kEntry + name + number(bytes, at + 30, 2) + number(bytes, at + 32, 2);
    }
}

const Array& Npz::at(const std::string& name) const {
    for (const auto& [known, array] : arrays_)
        if (known == name) return array;
    refuse("it has no array \"" + name + '"');
}

}  // namespace edgekd::core
