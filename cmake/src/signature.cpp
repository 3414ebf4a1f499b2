// Reading the signature, and checking a call against it: counts, dtypes, shapes, alignment, null pointers.
#include "signature.hpp"

#include "failure.hpp"

#include <algorithm>
#include <array>

namespace edgekd::core {
namespace {

struct Element {
    edgekd_dtype dtype;
    const char* name;
    std::size_t bytes;
};

constexpr std::array<Element, 12> kElements = {{{EDGEKD_FLOAT32, "float32", 4},
                                                {EDGEKD_FLOAT64, "float64", 8},
                                                {EDGEKD_FLOAT16, "float16", 2},
                                                {EDGEKD_INT8, "int8", 1},
                                                {EDGEKD_UINT8, "uint8", 1},
                                                {EDGEKD_INT16, "int16", 2},
                                                {EDGEKD_UINT16, "uint16", 2},
                                                {EDGEKD_INT32, "int32", 4},
                                                {EDGEKD_UINT32, "uint32", 4},
                                                {EDGEKD_INT64, "int64", 8},
                                                {EDGEKD_UINT64, "uint64", 8},
                                                {EDGEKD_BOOL, "bool", 1}}};

const Element* element(edgekd_dtype dtype) noexcept {
    for (const Element& known : kElements)
        if (known.dtype == dtype) return &known;
    return nullptr;
}

std::string shown(const std::int64_t* shape, std::size_t rank) {
    std::string text = "[";
    for (std::size_t i = 0; i < rank; ++i) {
        if (i != 0) text += ", ";
        text += shape[i] < 0 ? "any" : std::to_string(shape[i]);
    }
    return text + "]";
}

// Of one tensor: a terabyte, or what a machine of 32 bits can count.
constexpr auto kMostBytes = static_cast<std::size_t>(
    std::min<std::uint64_t>(std::uint64_t{1} << 40, std::numeric_limits<std::size_t>::max() - 1));

// Elements of a shape whose dynamic sizes (-1) are left out.
std::size_t elements(const std::vector<std::int64_t>& shape) noexcept {
    std::size_t found = 1;
    for (const std::int64_t size : shape)
        if (size > 0) found = product(found, static_cast<std::uint64_t>(size));
    return found;
}

Port port_of(const Json& found, std::vector<std::string>& symbols) {
    Port port;
    port.name = found.at("name").text();
    port.dtype = dtype_named(found.at("dtype").text());
    for (const Json& size : found.at("shape").list()) {
        const bool fixed = size.is(Json::Kind::number) && size.integer() > 0;
        port.shape.push_back(fixed ? size.integer() : -1);
        std::size_t symbol = Port::kFixed;
        if (!fixed) {
            const std::string name = size.is(Json::Kind::text) ? size.text() : "";
            for (symbol = 0; symbol < symbols.size() && (name.empty() || symbols[symbol] != name);) ++symbol;  // without a name: one of its own
            if (symbol == symbols.size()) symbols.push_back(name);
        }
        port.symbols.push_back(symbol);
    }
    if (port.shape.size() > kMostDimensions)
        fail(EDGEKD_DAMAGED, "bundle.json: \"" + port.name + "\" has more than 8 dimensions");
    bool dynamic = false;
    for (const std::int64_t size : port.shape) dynamic = dynamic || size < 0;
    port.count = dynamic ? 0 : elements(port.shape);
    const std::size_t bytes = product(elements(port.shape), edgekd_dtype_bytes(port.dtype));
    if (bytes > kMostBytes) fail(EDGEKD_DAMAGED, "bundle.json: \"" + port.name + "\" is larger than a terabyte, or than this machine can count");
    return port;
}

// Numbers and texts of the preprocessing, flat: {"crop": {"size": 24}} gives crop.size.
void flatten(const Json& found, const std::string& key, Signature& signature) {
    switch (found.kind()) {
        case Json::Kind::object:
            for (const auto& [name, value] : found.members())
                flatten(value, key.empty() ? name : key + '.' + name, signature);
            break;
        case Json::Kind::list: {
            std::vector<double> numbers;
            for (const Json& value : found.list())
                if (value.is(Json::Kind::number)) numbers.push_back(value.number());
            if (numbers.size() == found.list().size()) signature.constants.emplace_back(key, std::move(numbers));
            break;
        }
        case Json::Kind::number: signature.constants.emplace_back(key, std::vector<double>{found.number()}); break;
        case Json::Kind::boolean: signature.constants.emplace_back(key, std::vector<double>{found.boolean() ? 1.0 : 0.0}); break;
        case Json::Kind::text: signature.settings.emplace_back(key, found.text()); break;
        case Json::Kind::null: break;
    }
}

[[noreturn]] void refuse(const char* side, const Port& port, const std::string& why) {
    fail(EDGEKD_INVALID_ARGUMENT, std::string(side) + " \"" + port.name + "\" " + why);
}

// Fill in `sizes` from a shape, or from the number of elements where one size is all that is not known.
void learn(const char* side, const Port& port, const std::int64_t* shape, std::size_t rank, std::size_t count,
           std::vector<std::int64_t>& sizes) {
    const auto wrong = [&] {
        refuse(side, port, (shape != nullptr ? "has shape " + shown(shape, rank) : "has " + std::to_string(count) + " elements") +
                               "; the student's is " + shown(port.shape.data(), port.shape.size()));
    };
    if (shape != nullptr) {
        if (rank != port.shape.size()) wrong();
        for (std::size_t i = 0; i < rank; ++i) {
            std::int64_t expected = port.shape[i];
            if (port.symbols[i] != Port::kFixed) {
                std::int64_t& size = sizes[port.symbols[i]];
                if (size == 0) size = shape[i];
                expected = size;
            }
            if (shape[i] < 1 || shape[i] != expected) wrong();
        }
    }
    std::size_t known = 1;
    std::size_t unknown = Port::kFixed;
    for (std::size_t i = 0; i < port.shape.size(); ++i) {
        const std::size_t symbol = port.symbols[i];
        const std::int64_t size = symbol == Port::kFixed ? port.shape[i] : sizes[symbol];
        if (size > 0) known = product(known, static_cast<std::uint64_t>(size));
        else if (unknown == Port::kFixed) unknown = symbol;
        else refuse(side, port, "has more than one dynamic size: say its shape");
    }
    if (unknown != Port::kFixed) {
        if (count == 0 || count % known != 0) wrong();
        sizes[unknown] = static_cast<std::int64_t>(count / known);
    } else if (count != known) {
        wrong();
    }
}

template <class Given>
void fill(const char* side, const std::vector<Port>& ports, const Given* given, std::size_t count,
          std::vector<std::int64_t>& sizes, std::vector<Tensor>& tensors) {
    if (count != ports.size())
        fail(EDGEKD_INVALID_ARGUMENT, "the student has " + std::to_string(ports.size()) + ' ' + side + "(s), got " +
                                          std::to_string(count));
    if (given == nullptr) fail(EDGEKD_INVALID_ARGUMENT, std::string("the ") + side + "s are a null pointer");
    for (std::size_t i = 0; i < count; ++i) {
        const Port& port = ports[i];
        const Given& one = given[i];
        if (one.data == nullptr) refuse(side, port, "is a null pointer");
        if (one.dtype != port.dtype)
            refuse(side, port, std::string("has dtype ") + edgekd_dtype_name(one.dtype) + "; the student's is " +
                                   edgekd_dtype_name(port.dtype));
        if (reinterpret_cast<std::uintptr_t>(one.data) % edgekd_dtype_bytes(port.dtype) != 0)
            refuse(side, port, std::string("is not aligned for ") + edgekd_dtype_name(port.dtype));
        learn(side, port, one.shape, one.rank, one.count, sizes);
        Tensor& tensor = tensors[i];
        tensor.data = const_cast<void*>(static_cast<const void*>(one.data));
        tensor.count = one.count;
        for (std::size_t d = 0; d < port.shape.size(); ++d)
            tensor.shape[d] = port.symbols[d] == Port::kFixed ? port.shape[d] : sizes[port.symbols[d]];
    }
}

std::vector<Tensor> tensors_of(const std::vector<Port>& ports) {
    std::vector<Tensor> made(ports.size());
    for (std::size_t i = 0; i < ports.size(); ++i) {
        made[i].dtype = ports[i].dtype;
        made[i].rank = ports[i].shape.size();
    }
    return made;
}

}  // namespace

edgekd_dtype dtype_named(const std::string& name) {
    for (const Element& known : kElements)
        if (name == known.name) return known.dtype;
    fail(EDGEKD_DAMAGED, "bundle.json: this library knows no dtype \"" + name + '"');
}

Signature Signature::read(const Json& found) {
    Signature made;
    for (const Json& port : found.at("inputs").list()) made.inputs.push_back(port_of(port, made.symbols));
    for (const Json& port : found.at("outputs").list()) made.outputs.push_back(port_of(port, made.symbols));
    if (made.inputs.empty() || made.outputs.empty()) fail(EDGEKD_DAMAGED, "bundle.json: no inputs, or no outputs");
    if (const Json* labels = found.find("labels"); labels != nullptr && !labels->is(Json::Kind::null))
        for (const Json& label : labels->list()) made.labels.push_back(label.text());
    if (const Json* preprocessing = found.find("preprocessing")) flatten(*preprocessing, "", made);
    return made;
}

Call Signature::call() const { return {tensors_of(inputs), tensors_of(outputs), std::vector<std::int64_t>(symbols.size())}; }

void Signature::check(const edgekd_const_tensor* given_inputs, std::size_t input_count, const edgekd_tensor* given_outputs,
                      std::size_t output_count, Call& call) const {
    std::fill(call.sizes.begin(), call.sizes.end(), 0);
    fill("input", inputs, given_inputs, input_count, call.sizes, call.inputs);
    fill("output", outputs, given_outputs, output_count, call.sizes, call.outputs);
}

}  // namespace edgekd::core

const char* edgekd_dtype_name(edgekd_dtype dtype) noexcept {
    const auto* found = edgekd::core::element(dtype);
    return found != nullptr ? found->name : "unknown";
}

size_t edgekd_dtype_bytes(edgekd_dtype dtype) noexcept {
    const auto* found = edgekd::core::element(dtype);
    return found != nullptr ? found->bytes : 0;
}
