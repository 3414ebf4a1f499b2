// The null runtime: the simulated device of edgekd/backends/null.py. Computes the same rule; does not wait.
#include "element.hpp"
#include "failure.hpp"
#include "session.hpp"

#include <cmath>

namespace edgekd::core {
namespace {

// SplitMix64, the number after `index` others. Source: Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195, figure 17.
std::uint64_t split_mix(std::uint64_t seed, std::uint64_t index) noexcept {
    std::uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void write(const Tensor& tensor, std::size_t index, double value) {
    switch (tensor.dtype) {
        case EDGEKD_FLOAT32: static_cast<float*>(tensor.data)[index] = static_cast<float>(value); break;
        case EDGEKD_FLOAT64: static_cast<double*>(tensor.data)[index] = value; break;
        default: fail(EDGEKD_RUNTIME_FAILED, std::string("the null runtime gives no ") + edgekd_dtype_name(tensor.dtype));
    }
}

std::size_t batch_of(const Tensor& tensor) noexcept { return tensor.rank == 0 ? 1 : static_cast<std::size_t>(tensor.shape[0]); }

class NullSession final : public Session {
  public:
    NullSession(std::uint64_t seed, double step) : seed_(seed), step_(step) {}

    const char* version() const noexcept override { return "1"; }

    // outputs = inputs, flattened a sample, times a matrix [inputs, outputs] for each output, drawn one after the other.
    void run(const Call& call) override {
        const std::size_t batch = batch_of(call.inputs[0]);
        std::size_t width = 0;
        for (const Tensor& input : call.inputs) width += input.count / batch;
        const double scale = std::sqrt(3.0 / static_cast<double>(width));
        std::size_t drawn = 0;
        for (const Tensor& output : call.outputs) {
            const std::size_t columns = output.count / batch;
            for (std::size_t sample = 0; sample < batch; ++sample)
                for (std::size_t column = 0; column < columns; ++column)
                    write(output, sample * columns + column, dot(call, batch, sample, columns, column, drawn, scale));
            drawn += width * columns;
        }
    }

  private:
    double dot(const Call& call, std::size_t batch, std::size_t sample, std::size_t columns, std::size_t column,
               std::size_t drawn, double scale) const {
        double sum = 0;
        std::size_t row = 0;
        for (const Tensor& input : call.inputs) {
            const std::size_t count = input.count / batch;
            for (std::size_t i = 0; i < count; ++i, ++row) {
                // The 24 highest bits, as a number in [0, 1), stretched to [-scale, scale).
                const std::uint64_t bits = split_mix(seed_, drawn + row * columns + column) >> 40;
                const double unit = static_cast<double>(bits) / 16777216.0;
                sum += element(static_cast<const unsigned char*>(input.data), input.dtype, sample * count + i) * static_cast<double>(static_cast<float>((2 * unit - 1) * scale));
            }
        }
        return step_ > 0 ? std::nearbyint(sum / step_) * step_ : sum;
    }

    std::uint64_t seed_;
    double step_;
};

std::unique_ptr<Session> open(const Opening& opening) {
    const Json rule = Json::parse(opening.bundle.engine_file.text(), "engine/device.json");
    return std::make_unique<NullSession>(static_cast<std::uint64_t>(rule.at("seed").integer()), rule.at("step").number());
}

}  // namespace
}  // namespace edgekd::core

extern "C" {
EDGEKD_API extern const edgekd_runtime edgekd_null;
const edgekd_runtime edgekd_null = {"null", "", edgekd::core::open};
}
