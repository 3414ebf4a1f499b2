// Images as inputs: edgekd/image.py, operation by operation. Half-pixel centres, no antialiasing.
#include "failure.hpp"
#include "processing.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace edgekd::core {
namespace {

// The two inputs that an output lies between, and how far along: exact integers, one division.
struct Tap {
    std::size_t before;
    std::size_t behind;
    double along;
};

// Products of two sizes are in 64 bits, whatever the machine counts with.
std::size_t part(std::size_t a, std::size_t b, std::size_t of) { return static_cast<std::size_t>(std::uint64_t{a} * b / of); }

std::vector<Tap> taps(std::size_t size, std::size_t wanted) {
    std::vector<Tap> made(wanted);
    for (std::size_t i = 0; i < wanted; ++i) {
        const std::uint64_t ahead = (2 * std::uint64_t{i} + 1) * size;
        const std::uint64_t last = 2 * std::uint64_t{wanted} * (size - 1), at = std::min(ahead > wanted ? ahead - wanted : 0, last);
        const auto before = static_cast<std::size_t>(at / (2 * std::uint64_t{wanted}));
        made[i] = {before, std::min(before + 1, size - 1),
                   static_cast<double>(at % (2 * std::uint64_t{wanted})) / (2.0 * static_cast<double>(wanted))};
    }
    return made;
}

}  // namespace

void target_size(const std::vector<std::size_t>& size, std::size_t& height, std::size_t& width) {
    const std::size_t h = height, w = width;
    if (size.size() == 2) {
        height = size[0];
        width = size[1];
    } else {
        height = std::max<std::size_t>(h <= w ? size[0] : part(h, size[0], w), 1);
        width = std::max<std::size_t>(h <= w ? part(w, size[0], h) : size[0], 1);
    }
}

Rows resized(const Rows& image, std::size_t height, std::size_t width, Method method, bool whole) {
    const std::size_t depth = image.depth;
    Rows made{height, width, depth, std::vector<double>(product(product(height, width), depth))};
    const auto pixel = [&](std::size_t row, std::size_t column) { return image.values.data() + (row * image.width + column) * depth; };
    double* out = made.values.data();
    if (method == Method::nearest) {
        for (std::size_t row = 0; row < height; ++row)
            for (std::size_t column = 0; column < width; ++column, out += depth)
                std::copy_n(pixel(part(2 * row + 1, image.height, 2 * height), part(2 * column + 1, image.width, 2 * width)), depth, out);
        return made;
    }
    const std::vector<Tap> columns = taps(image.width, width);
    for (const Tap& down : taps(image.height, height))
        for (const Tap& across : columns)
            for (std::size_t c = 0; c < depth; ++c, ++out) {
                const double top = pixel(down.before, across.before)[c] * (1.0 - across.along) +
                                   pixel(down.before, across.behind)[c] * across.along;
                const double bottom = pixel(down.behind, across.before)[c] * (1.0 - across.along) +
                                      pixel(down.behind, across.behind)[c] * across.along;
                const double found = top * (1.0 - down.along) + bottom * down.along;
                *out = whole ? std::nearbyint(found) : found;
            }
    return made;
}

Rows cropped(const Rows& image, std::size_t height, std::size_t width) {
    if (height > image.height || width > image.width)
        fail(EDGEKD_INVALID_ARGUMENT, "an image of " + std::to_string(image.height) + " x " + std::to_string(image.width) +
                                          " has no middle of " + std::to_string(height) + " x " + std::to_string(width));
    const std::size_t top = (image.height - height) / 2, left = (image.width - width) / 2;
    Rows made{height, width, image.depth, {}};
    made.values.reserve(height * width * image.depth);
    for (std::size_t row = 0; row < height; ++row) {
        const double* from = image.values.data() + ((top + row) * image.width + left) * image.depth;
        made.values.insert(made.values.end(), from, from + width * image.depth);
    }
    return made;
}

}  // namespace edgekd::core
