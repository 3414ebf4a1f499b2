// A grey image from a PGM file: what student.preprocess makes an input of.
#pragma once

#include <edgekd/student.hpp>

#include <cstdio>
#include <string>
#include <vector>

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
