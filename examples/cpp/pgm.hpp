// A grey image from a PGM file, as a student's input: pixels scaled and normalised with the bundle's own constants.
#pragma once

#include <edgekd/student.hpp>

#include <cstdio>
#include <string>
#include <vector>

// (pixel · scale − mean) / std, where the bundle has these constants.
inline void normalise(const edgekd::Student& student, const std::vector<unsigned char>& pixels, std::vector<float>& input) {
    const auto constant = [&](const char* key, double otherwise) {
        const auto found = student.constant(key);
        return found.empty() ? otherwise : found[0];
    };
    const double scale = constant("scale", 1), mean = constant("mean", 0), deviation = constant("std", 1);
    for (std::size_t i = 0; i < input.size(); ++i) input[i] = static_cast<float>((pixels[i] * scale - mean) / deviation);
}

// The pixels of a binary PGM file with one byte a pixel and no comment; empty if it is not `count` pixels of that.
inline std::vector<unsigned char> read_pgm(const char* path, std::size_t count) {
    std::vector<unsigned char> pixels(count);
    std::FILE* file = std::fopen(path, "rb");
    if (file == nullptr) return {};
    unsigned width = 0, height = 0, white = 0;
    const bool header = std::fscanf(file, "P5 %u %u %u", &width, &height, &white) == 3 && std::fgetc(file) != EOF;
    const bool whole = header && white == 255 && std::size_t{width} * height == count &&
                       std::fread(pixels.data(), 1, count, file) == count;
    std::fclose(file);
    return whole ? pixels : std::vector<unsigned char>{};
}
