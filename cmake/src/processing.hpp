// What stands before and behind an engine, as edgekd/processing.py says: a picture or a sound to the student's input, its
// output to classes. All in double precision, in the order of operations that Python has, so that both give the same.
#pragma once

#include "json.hpp"
#include "signature.hpp"

#include <edgekd/edgekd.h>

#include <cstddef>
#include <string>
#include <vector>

namespace edgekd::core {

// Rows of equally many numbers: pixels [height · width, channels] of a picture, or frames [frames, values] of a sound.
struct Rows {
    std::size_t height = 0;  // of a sound: frames
    std::size_t width = 1;
    std::size_t depth = 0;  // values a pixel or a frame
    std::vector<double> values;
};

// image.cpp
enum class Method { bilinear, nearest };
// What `size`, one number for the shorter side or {height, width}, makes of height and width.
void target_size(const std::vector<std::size_t>& size, std::size_t& height, std::size_t& width);
Rows resized(const Rows& image, std::size_t height, std::size_t width, Method method, bool whole);
Rows cropped(const Rows& image, std::size_t height, std::size_t width);

// audio.cpp
Rows frames(const std::vector<double>& samples, std::size_t length, std::size_t hop, bool hann);
// [size / 2 + 1, bins]
Rows filters(std::size_t bins, std::size_t size, double rate, double low, double high);
Rows mel(const Rows& framed, std::size_t size, const Rows& weights);

// `signature` is that of bundle.json. Failures: EDGEKD_INVALID_ARGUMENT for what the caller gave, and for settings that this
// library does not apply.
void preprocess(const Json& signature, const std::vector<Port>& inputs, const edgekd_const_tensor& raw,
                const edgekd_tensor& input);
// Fills `classes` with as many as there are, at most `room`; how many.
std::size_t postprocess(const Json& signature, const std::vector<std::string>& labels, const edgekd_const_tensor& output,
                        edgekd_class* classes, std::size_t room);

}  // namespace edgekd::core
