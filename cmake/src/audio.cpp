// Sounds as inputs: edgekd/audio.py, operation by operation; the sources of the formulas stand there.
#include "failure.hpp"
#include "processing.hpp"

#include <algorithm>
#include <cmath>

namespace edgekd::core {
namespace {

constexpr double kPi = 3.141592653589793;

// |DFT|² of `real`, whose size is a power of two, by Cooley and Tukey's radix 2, decimation in time: size / 2 + 1 values.
class Spectrum {
  public:
    explicit Spectrum(std::size_t size) : order_(size), cosine_(size), sine_(size), real_(size), imaginary_(size) {
        for (std::size_t i = 0; i < size; ++i)
            for (std::size_t bit = 1, mirrored = size / 2; bit < size; bit *= 2, mirrored /= 2)
                if ((i & bit) != 0) order_[i] |= mirrored;
        for (std::size_t span = 2; span <= size; span *= 2)  // the factors of each span, one span behind the other
            for (std::size_t k = 0; k < span / 2; ++k) {
                const double angle = -2.0 * kPi * static_cast<double>(k) / static_cast<double>(span);
                cosine_[span / 2 + k] = std::cos(angle);
                sine_[span / 2 + k] = std::sin(angle);
            }
    }

    void power(const double* frame, std::size_t length, std::vector<double>& out) {
        const std::size_t size = order_.size();
        for (std::size_t i = 0; i < size; ++i) real_[i] = order_[i] < length ? frame[order_[i]] : 0.0;
        std::fill(imaginary_.begin(), imaginary_.end(), 0.0);
        for (std::size_t span = 2; span <= size; span *= 2)
            for (std::size_t start = 0; start < size; start += span)
                for (std::size_t k = 0; k < span / 2; ++k) {
                    const std::size_t a = start + k, b = a + span / 2;
                    const double cosine = cosine_[span / 2 + k], sine = sine_[span / 2 + k];
                    const double x = real_[b] * cosine - imaginary_[b] * sine;
                    const double y = real_[b] * sine + imaginary_[b] * cosine;
                    real_[b] = real_[a] - x;
                    imaginary_[b] = imaginary_[a] - y;
                    real_[a] = real_[a] + x;
                    imaginary_[a] = imaginary_[a] + y;
                }
        for (std::size_t k = 0; k < out.size(); ++k) out[k] = real_[k] * real_[k] + imaginary_[k] * imaginary_[k];
    }

  private:
    std::vector<std::size_t> order_;
    std::vector<double> cosine_, sine_, real_, imaginary_;
};

}  // namespace

Rows frames(const std::vector<double>& samples, std::size_t length, std::size_t hop, bool hann) {
    if (samples.size() < length)
        fail(EDGEKD_INVALID_ARGUMENT, std::to_string(samples.size()) + " samples are less than one frame of " + std::to_string(length));
    Rows made{(samples.size() - length) / hop + 1, 1, length, {}};
    made.values.resize(product(made.height, length));
    for (std::size_t i = 0; i < length; ++i) {
        const double weight = hann ? 0.5 - 0.5 * std::cos(2.0 * kPi * static_cast<double>(i) / static_cast<double>(length)) : 1.0;
        for (std::size_t frame = 0; frame < made.height; ++frame) made.values[frame * length + i] = samples[frame * hop + i] * weight;
    }
    return made;
}

Rows filters(std::size_t bins, std::size_t size, double rate, double low, double high) {
    const auto in_mel = [](double f) { return 2595.0 * std::log10(1.0 + f / 700.0); };
    const double least = in_mel(low), most = in_mel(high);
    std::vector<double> corners(bins + 2);
    for (std::size_t i = 0; i < corners.size(); ++i)
        corners[i] = 700.0 * (std::pow(10.0, (least + (most - least) * static_cast<double>(i) / static_cast<double>(bins + 1)) / 2595.0) - 1.0);
    Rows made{size / 2 + 1, 1, bins, std::vector<double>((size / 2 + 1) * bins)};
    for (std::size_t k = 0; k < made.height; ++k) {
        const double f = static_cast<double>(k) * rate / static_cast<double>(size);
        for (std::size_t b = 0; b < bins; ++b) {
            const double up = (f - corners[b]) / (corners[b + 1] - corners[b]);
            const double down = (corners[b + 2] - f) / (corners[b + 2] - corners[b + 1]);
            made.values[k * bins + b] = std::max(0.0, std::min(up, down));
        }
    }
    return made;
}

Rows mel(const Rows& framed, std::size_t size, const Rows& weights) {
    Spectrum spectrum(size);
    std::vector<double> power(size / 2 + 1);
    Rows made{framed.height, 1, weights.depth, std::vector<double>(framed.height * weights.depth)};
    for (std::size_t frame = 0; frame < framed.height; ++frame) {
        spectrum.power(framed.values.data() + frame * framed.depth, framed.depth, power);
        double* sums = made.values.data() + frame * weights.depth;
        for (std::size_t k = 0; k < power.size(); ++k)
            for (std::size_t b = 0; b < weights.depth; ++b) sums[b] += power[k] * weights.values[k * weights.depth + b];
    }
    return made;
}

}  // namespace edgekd::core
