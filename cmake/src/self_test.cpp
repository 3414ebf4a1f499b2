// The self-test: golden inputs through the engine, its outputs against the golden ones, and a few calls timed.
#include "element.hpp"
#include "failure.hpp"
#include "npz.hpp"
#include "student.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

namespace edgekd::core {
namespace {

constexpr std::size_t kWarm = 10;      // calls before the first that is timed
constexpr std::size_t kMostCalls = 200;
constexpr double kMostSeconds = 1.0;   // for all timed calls together
constexpr std::size_t kFewestCalls = 5;

// The golden array of one port, and the shape of one sample of it: [samples, …] holds samples of [1, …].
struct Golden {
    Golden(const Npz& npz, const char* side, const std::vector<core::Port>& ports, std::size_t index)
        : array(npz.at(ports.size() == 1 ? std::string(side) : std::string(side) + '_' + std::to_string(index))) {
        const core::Port& port = ports[index];
        shape = array.shape;
        if (shape.empty() || shape[0] < 1 || shape.size() != port.shape.size() || array.dtype != port.dtype)
            fail(EDGEKD_DAMAGED, "golden.npz: its " + std::string(side) + " are not those of \"" + port.name + '"');
        samples = static_cast<std::size_t>(shape[0]);
        shape[0] = 1;
        count = array.count / samples;
        buffer.resize((count * edgekd_dtype_bytes(array.dtype) + sizeof(double) - 1) / sizeof(double));
    }

    const unsigned char* sample(std::size_t index) const noexcept {
        return array.bytes.data + index * count * edgekd_dtype_bytes(array.dtype);
    }
    const unsigned char* own() const noexcept { return reinterpret_cast<const unsigned char*>(buffer.data()); }
    void take(std::size_t index) noexcept { std::memcpy(buffer.data(), sample(index), count * edgekd_dtype_bytes(array.dtype)); }

    const Array& array;
    std::vector<std::int64_t> shape;
    std::size_t samples = 0;
    std::size_t count = 0;
    std::vector<double> buffer;  // one sample, aligned for every dtype
};

std::size_t largest(const unsigned char* data, edgekd_dtype dtype, std::size_t count) noexcept {
    std::size_t at = 0;
    for (std::size_t i = 1; i < count; ++i)
        if (element(data, dtype, i) > element(data, dtype, at)) at = i;
    return at;
}

// Adds one sample of one output to the report; whether its largest element is where the golden one is.
bool compare(const Golden& golden, std::size_t sample, edgekd_report& report) noexcept {
    const unsigned char* expected = golden.sample(sample);
    for (std::size_t i = 0; i < golden.count; ++i) {
        const double a = element(golden.own(), golden.array.dtype, i);
        const double b = element(expected, golden.array.dtype, i);
        const bool same = a == b || (std::isnan(a) && std::isnan(b));
        const double difference = same ? 0 : std::abs(a - b);
        report.difference = std::max(report.difference, std::isnan(difference) ? INFINITY : difference);
    }
    return largest(golden.own(), golden.array.dtype, golden.count) == largest(expected, golden.array.dtype, golden.count);
}

double seconds() noexcept {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.4g", value);
    return text;
}

double promised_median(const Json& manifest) {
    const Json* found = manifest.find("promised");
    for (const char* key : {"latency", "median"})
        if (found != nullptr) found = found->find(key);
    return found != nullptr && found->is(Json::Kind::number) ? found->number() : 0;
}

}  // namespace

void self_test(edgekd_student& student, double slowdown, edgekd_report& report) {
    const Signature& signature = student.bundle.signature;
    const Json& tolerance = student.bundle.manifest.at("tolerance");
    report.tolerance_top1 = tolerance.at("top1").number();
    report.tolerance_absolute = tolerance.at("absolute").number();
    report.promised = promised_median(student.bundle.manifest);

    const Npz npz({student.golden.data(), student.golden.size()});
    std::vector<Golden> inputs;
    std::vector<Golden> outputs;
    std::vector<edgekd_const_tensor> given;
    std::vector<edgekd_tensor> taken;
    for (std::size_t i = 0; i < signature.inputs.size(); ++i) inputs.emplace_back(npz, "inputs", signature.inputs, i);
    for (std::size_t i = 0; i < signature.outputs.size(); ++i) outputs.emplace_back(npz, "outputs", signature.outputs, i);
    for (Golden& one : inputs) given.push_back({one.buffer.data(), one.count, one.array.dtype, one.shape.data(), one.shape.size()});
    for (Golden& one : outputs) taken.push_back({one.buffer.data(), one.count, one.array.dtype, one.shape.data(), one.shape.size()});
    report.samples = inputs[0].samples;
    for (const auto* side : {&inputs, &outputs})
        for (const Golden& one : *side)
            if (one.samples != report.samples) fail(EDGEKD_DAMAGED, "golden.npz: its arrays hold different numbers of samples");

    const std::lock_guard<std::mutex> turn(student.turn);
    const auto call = [&] {
        signature.check(given.data(), given.size(), taken.data(), taken.size(), student.call);
        student.session->run(student.call);
    };
    std::size_t right = 0;
    for (std::size_t sample = 0; sample < report.samples; ++sample) {
        for (Golden& one : inputs) one.take(sample);
        call();
        for (std::size_t i = 0; i < outputs.size(); ++i)
            right += compare(outputs[i], sample, report) && i == 0 ? 1 : 0;
    }
    report.top1 = static_cast<double>(right) / static_cast<double>(report.samples);

    for (std::size_t i = 0; i < kWarm; ++i) call();
    std::vector<double> times;
    const double started = seconds();
    while (times.size() < kMostCalls && (times.size() < kFewestCalls || seconds() - started < kMostSeconds)) {
        const double before = seconds();
        call();
        times.push_back(seconds() - before);
    }
    std::sort(times.begin(), times.end());
    report.calls = times.size();
    report.median = (times[(times.size() - 1) / 2] + times[times.size() / 2]) / 2;

    if (!(report.top1 >= report.tolerance_top1) || !(report.difference <= report.tolerance_absolute))
        fail(EDGEKD_SELF_TEST_FAILED,
             "the outputs are not the golden ones: top-1 agreement " + number(report.top1) + " of at least " +
                 number(report.tolerance_top1) + ", largest difference " + number(report.difference) + " of at most " +
                 number(report.tolerance_absolute) + "; the runtime (" + student.session->version() +
                 ") or the processor computes otherwise than where the bundle was made: compile it for this target");
    if (slowdown > 0 && report.promised > 0 && !(report.median <= slowdown * report.promised))
        fail(EDGEKD_SELF_TEST_FAILED, "too slow: median " + number(report.median) + " s, promised " + number(report.promised) +
                                          " s and at most " + number(slowdown) +
                                          " times that; is the processor busy, throttled, or another than the target?");
}

}  // namespace edgekd::core
