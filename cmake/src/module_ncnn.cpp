// The module of ncnn: one network, an extractor a call.
//
// ncnn knows no batch: the first dimension of every port is 1 and is left out. An input is lent without a copy, unless the layer
// that reads it works in place: it would write into the app's memory. An output is copied out of the extractor, whose channels
// may be padded. An extractor allocates the list of its blobs in each call; the
// blobs themselves come from ncnn's pool.
#include "module.hpp"

#if __has_include(<ncnn/net.h>)
#include <ncnn/blob.h>
#include <ncnn/datareader.h>
#include <ncnn/layer.h>
#include <ncnn/net.h>
#else
#include <blob.h>
#include <datareader.h>
#include <layer.h>
#include <net.h>
#endif

#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {

using edgekd::core::fail;
using edgekd::core::Tensor;
using edgekd::module::Engine;

// The weights, never read beyond their end.
class Weights final : public ncnn::DataReader {
  public:
    explicit Weights(const edgekd_file& file) : at_(file.begin), end_(file.end) {}

    std::size_t read(void* buffer, std::size_t size) const override {
        const std::size_t kept = std::min(size, static_cast<std::size_t>(end_ - at_));
        std::memcpy(buffer, at_, kept);
        at_ += kept;
        return kept;
    }

  private:
    mutable const unsigned char* at_;
    const unsigned char* end_;
};

int whole(std::int64_t size) { return static_cast<int>(size); }

// The app's memory as ncnn looks at it: without the batch, channels one behind the other.
ncnn::Mat lent(const Tensor& tensor) {
    const std::int64_t* size = tensor.shape + 1;
    ncnn::Mat made;
    switch (tensor.rank) {
        case 2: return ncnn::Mat(whole(size[0]), tensor.data);
        case 3: return ncnn::Mat(whole(size[1]), whole(size[0]), tensor.data);
        case 4: made = ncnn::Mat(whole(size[2]), whole(size[1]), whole(size[0]), tensor.data); break;
        case 5: made = ncnn::Mat(whole(size[3]), whole(size[2]), whole(size[1]), whole(size[0]), tensor.data); break;
        default: fail(EDGEKD_DAMAGED, "bundle.json: ncnn takes one sample, [1, ...] of 2 to 5 dimensions");
    }
    made.cstep = static_cast<std::size_t>(made.w) * static_cast<std::size_t>(made.h) * static_cast<std::size_t>(made.d);
    return made;
}

void copy(const ncnn::Mat& from, const Tensor& to, const std::string& name) {
    const std::size_t each = static_cast<std::size_t>(from.w) * static_cast<std::size_t>(from.h) * static_cast<std::size_t>(from.d);
    const auto channels = static_cast<std::size_t>(from.c);
    if (from.elempack != 1 || from.elemsize != sizeof(float) || each * channels != to.count)
        fail(EDGEKD_DAMAGED, "the output " + name + " of the engine has another size than bundle.json says");
    for (std::size_t c = 0; c < channels; ++c)
        std::memcpy(static_cast<float*>(to.data) + c * each, from.channel(whole(static_cast<std::int64_t>(c))), each * sizeof(float));
}

class Session {
  public:
    explicit Session(const Engine& engine) : engine_(engine) {
        const std::map<std::string, bool ncnn::Option::*> switches = {
            {"use_fp16_storage", &ncnn::Option::use_fp16_storage},
            {"use_fp16_packed", &ncnn::Option::use_fp16_packed},
            {"use_fp16_arithmetic", &ncnn::Option::use_fp16_arithmetic},
            {"use_bf16_storage", &ncnn::Option::use_bf16_storage},
            {"use_int8_inference", &ncnn::Option::use_int8_inference},
            {"use_vulkan_compute", &ncnn::Option::use_vulkan_compute},
        };
        for (std::size_t i = 0; i < engine.option_count; ++i) {
            const auto at = switches.find(engine.options[i].key);
            if (at != switches.end()) net_.opt.*at->second = engine.options[i].value != 0;
            else if (std::string("num_threads") != engine.options[i].key)
                fail(EDGEKD_DAMAGED, std::string("engine.json: ncnn has no option ") + engine.options[i].key);
        }
        net_.opt.num_threads = engine.threads;
        for (std::size_t i = 0; i < engine.input_count + engine.output_count; ++i) {
            const edgekd_port& port = i < engine.input_count ? engine.inputs[i] : engine.outputs[i - engine.input_count];
            if (port.dtype != EDGEKD_FLOAT32 || port.rank < 2 || port.rank > 5 || port.shape[0] != 1)
                fail(EDGEKD_DAMAGED, "bundle.json: ncnn takes and gives one sample of float32, [1, ...] of 2 to 5 dimensions");
        }
        const edgekd_file& layers = engine.at(engine.file);
        const std::string text(layers.begin, layers.end);
        std::string weights = engine.file;
        weights.replace(weights.rfind('.') + 1, std::string::npos, "bin");
        if (net_.load_param_mem(text.c_str()) != 0)
            fail(EDGEKD_RUNTIME_FAILED, "ncnn refuses the engine: " + std::string(engine.file) + ": it has a layer that this ncnn does not know");
        if (net_.load_model(Weights(engine.at(weights))) != 0) fail(EDGEKD_RUNTIME_FAILED, "ncnn refuses the engine: " + weights);
        check(engine.inputs, engine.input_count, net_.input_names());
        check(engine.outputs, engine.output_count, net_.output_names());
        for (std::size_t i = 0; i < engine.input_count; ++i) written_.push_back(written(engine.inputs[i].name));
    }

    void run(const Tensor* inputs, const Tensor* outputs) {
        ncnn::Extractor extractor = net_.create_extractor();
        for (std::size_t i = 0; i < engine_.input_count; ++i)
            if (extractor.input(engine_.inputs[i].name, written_[i] ? lent(inputs[i]).clone() : lent(inputs[i])) != 0)
                fail(EDGEKD_RUNTIME_FAILED, std::string("ncnn cannot take the input ") + engine_.inputs[i].name);
        for (std::size_t i = 0; i < engine_.output_count; ++i) {
            ncnn::Mat made;
            if (extractor.extract(engine_.outputs[i].name, made) != 0)
                fail(EDGEKD_RUNTIME_FAILED, std::string("ncnn cannot compute the output ") + engine_.outputs[i].name);
            copy(made, outputs[i], engine_.outputs[i].name);
        }
    }

  private:
    // Whether the layer that reads a blob writes its output over it.
    bool written(const std::string& name) const {
        for (const ncnn::Blob& blob : net_.blobs())
            if (blob.name == name && blob.consumer >= 0) return net_.layers()[static_cast<std::size_t>(blob.consumer)]->support_inplace;
        return true;
    }

    static void check(const edgekd_port* ports, std::size_t count, const std::vector<const char*>& known) {
        for (std::size_t i = 0; i < count; ++i) {
            bool found = false;
            for (const char* name : known) found = found || std::strcmp(name, ports[i].name) == 0;
            if (!found) fail(EDGEKD_DAMAGED, std::string("engine.json: the network has no blob ") + ports[i].name);
        }
    }

    Engine engine_;  // its ports only
    ncnn::Net net_;
    std::vector<bool> written_;  // of each input
};

}  // namespace

EDGEKD_MODULE(Session, NCNN_VERSION_STRING)
