// Reading `preprocessing` and `postprocessing`, and applying them: edgekd/processing.py, key by key.
#include "processing.hpp"

#include "failure.hpp"
#include "settings.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace edgekd::core {
namespace {

void normalise(const Settings& settings, double scale, Rows& rows) {
    const std::vector<double> mean = settings.numbers("mean", 0.0), deviation = settings.numbers("std", 1.0);
    if (mean.size() != 1 && mean.size() != rows.depth) settings.wrong("mean", "one number, or " + std::to_string(rows.depth));
    if (deviation.size() != 1 && deviation.size() != rows.depth) settings.wrong("std", "one number, or " + std::to_string(rows.depth));
    if (std::find(deviation.begin(), deviation.end(), 0.0) != deviation.end()) settings.wrong("std", "free of zeros");
    for (std::size_t i = 0; i < rows.values.size(); ++i) {
        const std::size_t c = i % rows.depth;
        rows.values[i] = (rows.values[i] * scale - mean[mean.size() == 1 ? 0 : c]) / deviation[deviation.size() == 1 ? 0 : c];
    }
}

[[noreturn]] void unfit(const std::string& what, const Port& port) {
    fail(EDGEKD_INVALID_ARGUMENT, what + ", which is not the student's \"" + port.name +
                                      "\": resize and crop, or framing, of the preprocessing say what it becomes");
}

template <class T>
void read(const edgekd_const_tensor& raw, std::vector<double>& out) {
    const T* data = static_cast<const T*>(raw.data);
    out.assign(data, data + raw.count);
}

void read_raw(const edgekd_const_tensor& raw, edgekd_dtype whole, std::vector<double>& out) {
    if (raw.data == nullptr || raw.count == 0) fail(EDGEKD_INVALID_ARGUMENT, "the raw data are a null pointer, or empty");
    if (raw.dtype != whole && raw.dtype != EDGEKD_FLOAT32)
        fail(EDGEKD_INVALID_ARGUMENT, std::string("the raw data are ") + edgekd_dtype_name(raw.dtype) + ", not " +
                                          edgekd_dtype_name(whole) + " or float32");
    if (reinterpret_cast<std::uintptr_t>(raw.data) % edgekd_dtype_bytes(raw.dtype) != 0)
        fail(EDGEKD_INVALID_ARGUMENT, std::string("the raw data are not aligned for ") + edgekd_dtype_name(raw.dtype));
    if (raw.dtype == EDGEKD_UINT8) read<std::uint8_t>(raw, out);
    else if (raw.dtype == EDGEKD_INT16) read<std::int16_t>(raw, out);
    else read<float>(raw, out);
}

std::size_t fixed(const Port& port, std::size_t dimension) {
    return port.shape[dimension] > 0 ? static_cast<std::size_t>(port.shape[dimension]) : 1;
}

constexpr std::size_t kMost = std::size_t{1} << 25;  // values of a picture or of frames on their way, and of a mel table

// Whether rows of values are to be stored values first.
struct Prepared {
    Rows rows;
    bool turned;
};

Prepared image(const Json* found, const Port& port, const edgekd_const_tensor& raw) {
    const Settings settings(found, "preprocessing", {"resize", "crop", "scale", "mean", "std", "layout"});
    const Settings resize = settings.within("resize", {"size", "method", "from"}), crop = settings.within("crop", {"size"});
    const bool channels_first = settings.choice("layout", {"NCHW", "NHWC"}) == 0;
    if (port.shape.size() != 4) unfit("an image becomes four dimensions", port);
    const std::size_t high = fixed(port, channels_first ? 2 : 1), wide = fixed(port, channels_first ? 3 : 2);
    const std::size_t deep = fixed(port, channels_first ? 1 : 3);
    Rows pixels;
    read_raw(raw, EDGEKD_UINT8, pixels.values);
    if (raw.shape != nullptr) {
        if ((raw.rank != 2 && raw.rank != 3) || std::any_of(raw.shape, raw.shape + raw.rank, [](std::int64_t n) { return n < 1; }))
            fail(EDGEKD_INVALID_ARGUMENT, "the image's shape is not [height, width] or [height, width, channels]");
        pixels.height = static_cast<std::size_t>(raw.shape[0]);
        pixels.width = static_cast<std::size_t>(raw.shape[1]);
        pixels.depth = raw.rank == 3 ? static_cast<std::size_t>(raw.shape[2]) : 1;
    } else {  // no shape: it has the input's own
        pixels.height = high;
        pixels.width = wide;
        pixels.depth = deep;
    }
    if (product(product(pixels.height, pixels.width), pixels.depth) != raw.count)
        fail(EDGEKD_INVALID_ARGUMENT, "the image has " + std::to_string(raw.count) + " values, its shape says " +
                                          std::to_string(product(product(pixels.height, pixels.width), pixels.depth)));
    if (settings.has("resize")) {
        std::size_t height = pixels.height, width = pixels.width;
        target_size(resize.size(), height, width);
        if (product(product(height, width), pixels.depth) > kMost)
            resize.wrong("size", "of an image: " + std::to_string(height) + " x " + std::to_string(width) + " is too large");
        const Method method = resize.choice("method", {"bilinear", "nearest"}) == 0 ? Method::bilinear : Method::nearest;
        pixels = resized(pixels, height, width, method, raw.dtype == EDGEKD_UINT8);
    }
    if (settings.has("crop")) {
        const std::vector<std::size_t> size = crop.size();
        pixels = cropped(pixels, size.front(), size.back());
    }
    if (pixels.height != high || pixels.width != wide || pixels.depth != deep)
        unfit("the image became " + std::to_string(pixels.height) + " x " + std::to_string(pixels.width) + " of " +
                  std::to_string(pixels.depth) + " channels", port);
    normalise(settings, settings.number("scale", 1.0), pixels);
    return {std::move(pixels), channels_first};
}

Prepared sound(const Json* found, const Port& port, std::size_t wanted, const edgekd_const_tensor& raw) {
    const Settings settings(found, "preprocessing", {"scale", "framing", "mel", "log", "mean", "std", "layout"});
    const Settings framing = settings.within("framing", {"length", "hop", "window"});
    const Settings table = settings.within("mel", {"rate", "bins", "fft", "low", "high"});
    const std::size_t length = framing.whole("length"), hop = framing.whole("hop");
    const bool hann = framing.choice("window", {"hann", "none"}) == 0, in_mel = settings.has("mel");
    const double scale = settings.number("scale", 1.0);
    std::vector<double> samples;
    read_raw(raw, EDGEKD_INT16, samples);
    for (double& sample : samples) sample *= scale;
    const std::size_t count = samples.size() < length ? 0 : (samples.size() - length) / hop + 1;
    const std::size_t columns = in_mel ? table.whole("bins") : length;
    if (count != 0 && product(count, columns) != wanted)
        unfit("the sound becomes " + std::to_string(count) + " frames of " + std::to_string(columns) + " values", port);
    if (product(count, length) > kMost) framing.wrong("length", "so short that the frames fit: " + std::to_string(count) + " of " + std::to_string(length));
    Rows rows = frames(samples, length, hop, hann);
    if (in_mel) {
        std::size_t next = 1;
        while (next < length) next *= 2;
        const double rate = table.number("rate", 0.0), low = table.number("low", 0.0), high = table.number("high", rate / 2.0);
        const std::size_t size = table.whole("fft", next);
        if ((size & (size - 1)) != 0 || size < length || size > 1048576) table.wrong("fft", "a power of two, at least a frame's length");
        if (!(0.0 <= low && low < high && high <= rate / 2.0)) table.wrong("high", "above low, and at most half the rate");
        if (product(size / 2 + 1, columns) > kMost)
            table.wrong("bins", "so few that the table fits: " + std::to_string(columns) + " of " + std::to_string(size / 2 + 1));
        rows = mel(rows, size, filters(columns, size, rate, low, high));
    }
    if (settings.has("log")) {
        const double floor = settings.number("log", 0.0);
        for (double& value : rows.values) value = std::log(value + floor);
    }
    normalise(settings, 1.0, rows);
    return {std::move(rows), settings.choice("layout", {"NTF", "NFT"}) == 1};
}

template <class T>
void store(const Prepared& prepared, const edgekd_tensor& input) {
    const Rows& rows = prepared.rows;
    const std::size_t depth = rows.depth, count = rows.values.size() / depth;
    T* out = static_cast<T*>(input.data);
    for (std::size_t i = 0; i < rows.values.size(); ++i) {
        const double value = prepared.turned ? rows.values[i % count * depth + i / count] : rows.values[i];
        if constexpr (std::is_floating_point_v<T>) {
            out[i] = static_cast<T>(value);
        } else {
            const double low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
            out[i] = std::isnan(value) ? T{0} : static_cast<T>(std::min(std::max(std::nearbyint(value), low), high));
        }
    }
}

}  // namespace

void preprocess(const Json& signature, const std::vector<Port>& inputs, const edgekd_const_tensor& raw,
                const edgekd_tensor& input) {
    const Json* found = signature.find("preprocessing");
    if (found != nullptr && found->find("tokenizer") != nullptr)
        fail(EDGEKD_INVALID_ARGUMENT, "the student takes text: edgekd_tokenize, or edgekd_run_text");
    if (inputs.size() != 1)
        fail(EDGEKD_INVALID_ARGUMENT, "preprocessing makes one input, the student has " + std::to_string(inputs.size()));
    const Port& port = inputs[0];
    std::size_t wanted = 1;
    for (std::size_t i = 0; i < port.shape.size(); ++i) wanted = product(wanted, fixed(port, i));
    if (input.data == nullptr || input.dtype != port.dtype || input.count != wanted)
        fail(EDGEKD_INVALID_ARGUMENT, "\"" + port.name + "\" takes " + std::to_string(wanted) + " values of " +
                                          edgekd_dtype_name(port.dtype) + "; room was given for " + std::to_string(input.count) +
                                          " of " + edgekd_dtype_name(input.dtype));
    if (reinterpret_cast<std::uintptr_t>(input.data) % edgekd_dtype_bytes(port.dtype) != 0)
        fail(EDGEKD_INVALID_ARGUMENT, "\"" + port.name + "\" is not aligned for " + edgekd_dtype_name(port.dtype));
    const bool framed = found != nullptr && found->find("framing") != nullptr;
    const Prepared prepared = framed ? sound(found, port, wanted, raw) : image(found, port, raw);
    const Rows& rows = prepared.rows;
    if (rows.values.size() != wanted)
        unfit("it became " + std::to_string(rows.height) + " x " + std::to_string(rows.width) + " of " + std::to_string(rows.depth) + " values", port);
    switch (port.dtype) {
        case EDGEKD_FLOAT32: store<float>(prepared, input); break;
        case EDGEKD_FLOAT64: store<double>(prepared, input); break;
        case EDGEKD_UINT8: store<std::uint8_t>(prepared, input); break;
        case EDGEKD_INT8: store<std::int8_t>(prepared, input); break;
        default: fail(EDGEKD_INVALID_ARGUMENT, std::string("edgekd prepares no ") + edgekd_dtype_name(port.dtype) + ", which \"" + port.name + "\" is");
    }
}

std::size_t postprocess(const Json& signature, const std::vector<std::string>& labels, const edgekd_const_tensor& output,
                        edgekd_class* classes, std::size_t room) {
    const Settings settings(signature.find("postprocessing"), "postprocessing", {"softmax", "sigmoid", "threshold", "top"});
    const bool softmax = settings.flag("softmax"), sigmoid = settings.flag("sigmoid");
    if (softmax && sigmoid) settings.wrong("sigmoid", "for one that has softmax");
    const double least = settings.number("threshold", -std::numeric_limits<double>::infinity());
    if (settings.has("top")) room = std::min(room, settings.whole("top"));
    if (output.data == nullptr || output.count == 0) fail(EDGEKD_INVALID_ARGUMENT, "the output is a null pointer, or empty");
    if (output.dtype != EDGEKD_FLOAT32 || reinterpret_cast<std::uintptr_t>(output.data) % sizeof(float) != 0)
        fail(EDGEKD_INVALID_ARGUMENT, std::string("the output is ") + edgekd_dtype_name(output.dtype) + ", or not aligned; float32 is taken");
    if (!labels.empty() && labels.size() != output.count)
        fail(EDGEKD_INVALID_ARGUMENT, "the output has " + std::to_string(output.count) + " values for " + std::to_string(labels.size()) +
                                          " labels: one sample at a time, the first output of the student");
    const float* raw = static_cast<const float*>(output.data);
    if (std::any_of(raw, raw + output.count, [](float x) { return std::isnan(x); })) fail(EDGEKD_INVALID_ARGUMENT, "the output holds NaN");
    const double largest = *std::max_element(raw, raw + output.count);
    double total = 0;
    for (std::size_t i = 0; softmax && i < output.count; ++i) total += std::exp(raw[i] - largest);
    std::vector<std::size_t> order(output.count);
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return raw[a] > raw[b]; });
    std::size_t count = 0;
    for (const std::size_t index : order) {
        const double x = raw[index];
        const double score = softmax ? std::exp(x - largest) / total : sigmoid ? 1.0 / (1.0 + std::exp(-x)) : x;
        const float rounded = static_cast<float>(score);
        if (!(static_cast<double>(rounded) >= least)) continue;
        if (count == room) break;
        classes[count++] = {index, rounded, labels.empty() ? nullptr : labels[index].c_str()};
    }
    return count;
}

}  // namespace edgekd::core
