// preprocessing.tokenizer, read and applied; and the two functions of the C API that take text.
#include "tokenizer.hpp"

#include "failure.hpp"
#include "student.hpp"

#include <algorithm>

namespace edgekd::core {
namespace {

constexpr std::size_t kDynamic = 512;  // numbers at most, where neither the input nor max_length says

Settings settings_of(const Json& signature) {
    const Json* before = signature.find("preprocessing");
    const Json* found = before != nullptr ? before->find("tokenizer") : nullptr;
    if (found == nullptr || !found->is(Json::Kind::object))
        fail(EDGEKD_INVALID_ARGUMENT, "the student takes no text: its preprocessing names no tokenizer");
    const Json* kind = found->find("kind");
    if (kind == nullptr || !kind->is(Json::Kind::text) || kind->text() != "wordpiece")
        fail(EDGEKD_INVALID_ARGUMENT, "edgekd applies no tokenizer of the kind \"" +
                                          (kind != nullptr && kind->is(Json::Kind::text) ? kind->text() : "") +
                                          "\", only \"wordpiece\"; the bundle carries what yours needs in tokenizer/");
    return {found, "preprocessing.tokenizer",
            {"kind", "files", "lowercase", "strip_accents", "cjk", "max_length", "ids", "mask", "types"}};
}

bool on(const Settings& settings, const char* key) { return !settings.has(key) || settings.flag(key); }

// The file whose name ends in .txt.
std::string_view vocabulary(const Settings& settings, const Tokenizer::Held& held) {
    constexpr std::string_view kEnd = ".txt";
    const std::vector<unsigned char>* found = nullptr;
    std::size_t count = 0;
    if (const Json* files = settings.find("files"); files != nullptr && files->is(Json::Kind::list))
        for (const Json& one : files->list()) {
            const std::string& name = one.text();
            if (name.size() < kEnd.size() || name.compare(name.size() - kEnd.size(), kEnd.size(), kEnd) != 0) continue;
            ++count;
            if (const auto at = held.find(name); at != held.end()) found = &at->second;
        }
    if (count != 1 || found == nullptr) settings.wrong("files", "a list with one vocabulary, a piece a line: vocab.txt");
    return {reinterpret_cast<const char*>(found->data()), found->size()};
}


}  // namespace

Tokenizer::Tokenizer(const Json& signature, const Held& held) : Tokenizer(settings_of(signature), held) {}

Tokenizer::Tokenizer(const Settings& settings, const Held& held)
    : ids_(settings.text("ids", "input_ids")),
      mask_(settings.text("mask", "attention_mask")),
      types_(settings.text("types", "token_type_ids")),
      most_(settings.has("max_length") ? settings.whole("max_length") : 0),
      pieces_(vocabulary(settings, held), {on(settings, "lowercase"), on(settings, "strip_accents"), on(settings, "cjk")}) {
    if (settings.has("max_length") && most_ < 3) settings.wrong("max_length", "3 or more: [CLS], [SEP] and something between");
}

std::size_t Tokenizer::length_of(const std::vector<Port>& ports) const {
    bool has_ids = false;
    for (const Port& port : ports) {
        has_ids = has_ids || port.name == ids_;
        const char* why = port.name != ids_ && port.name != mask_ && port.name != types_ ? "is not one that the tokenizer fills"
                          : port.shape.size() != 2 || port.shape[0] > 1                    ? "is not [1, length]"
                          : port.dtype != EDGEKD_INT64 && port.dtype != EDGEKD_INT32       ? "is neither int64 nor int32"
                          : port.shape[1] != ports[0].shape[1]                             ? "differs in length from the first"
                          : port.shape[1] > 0 && port.shape[1] < 3                         ? "has no room for a text between [CLS] and [SEP]"
                                                                                           : nullptr;
        if (why != nullptr) fail(EDGEKD_INVALID_ARGUMENT, "the student's \"" + port.name + "\" " + why);
    }
    if (!has_ids) fail(EDGEKD_INVALID_ARGUMENT, "the student has no input \"" + ids_ + '"');
    return ports[0].shape[1] > 0 ? static_cast<std::size_t>(ports[0].shape[1]) : 0;
}

Tokenizer::Text Tokenizer::read(const std::vector<Port>& ports, std::string_view text, const std::string_view* pair) const {
    const std::size_t size = length_of(ports);
    const std::size_t room = size != 0 ? size : most_ != 0 ? most_ : kDynamic;
    const std::size_t most = most_ != 0 ? std::min(room, most_) : room;
    std::vector<std::int32_t> here = pieces_.tokens(text), there;
    if (pair != nullptr) {
        there = pieces_.tokens(*pair);
        const auto [kept, behind] = kept_lengths(here.size(), there.size(), most - 3);
        here.resize(kept);
        there.resize(behind);
    } else {
        here.resize(std::min(here.size(), most - 2));
    }
    Text made{{pieces_.first()}, 0, 0};
    made.ids.insert(made.ids.end(), here.begin(), here.end());
    made.ids.push_back(pieces_.last());
    made.behind = made.ids.size();
    if (pair != nullptr) {
        made.ids.insert(made.ids.end(), there.begin(), there.end());
        made.ids.push_back(pieces_.last());
    }
    made.length = size != 0 ? size : made.ids.size();
    return made;
}

void Tokenizer::fill(const Text& text, const Port& port, void* out) const {
    const bool ids = port.name == ids_, mask = port.name == mask_;
    for (std::size_t i = 0; i < text.length; ++i) {
        const bool real = i < text.ids.size();
        const std::int32_t value = ids ? (real ? text.ids[i] : pieces_.padding()) : mask ? (real ? 1 : 0) : (real && i >= text.behind ? 1 : 0);
        if (port.dtype == EDGEKD_INT64) static_cast<std::int64_t*>(out)[i] = value;
        else static_cast<std::int32_t*>(out)[i] = value;
    }
}

}  // namespace edgekd::core

using edgekd::core::fail;
using edgekd::core::guarded;
using edgekd::core::needed;
using edgekd::core::Tokenizer;

namespace {

// The student's tokenizer, read from its files when the first text comes; threads wait for that.
const Tokenizer& tokenizer_of(const edgekd_student& student) {
    const std::lock_guard<std::mutex> hold(student.reading);
    if (student.tokenizer == nullptr)
        student.tokenizer = std::make_shared<const Tokenizer>(student.bundle.manifest.at("signature"), student.tokenizer_files);
    return *student.tokenizer;
}

Tokenizer::Text read(const edgekd_student& student, const char* text, size_t text_bytes, const char* pair, size_t pair_bytes) {
    needed(text, "text");
    const std::string_view second = pair != nullptr ? std::string_view(pair, pair_bytes) : std::string_view();
    return tokenizer_of(student).read(student.bundle.signature.inputs, {text, text_bytes}, pair != nullptr ? &second : nullptr);
}

}  // namespace

edgekd_status edgekd_tokenize(const edgekd_student* student, const char* text, size_t text_bytes, const char* pair, size_t pair_bytes,
                              const edgekd_tensor* inputs, size_t input_count, size_t* length) noexcept {
    if (length != nullptr) *length = 0;
    return guarded([&] {
        needed(student, "student");
        needed(inputs, "inputs");
        needed(length, "length");
        const auto& ports = student->bundle.signature.inputs;
        const Tokenizer::Text made = read(*student, text, text_bytes, pair, pair_bytes);
        *length = made.length;
        if (input_count != ports.size())
            fail(EDGEKD_INVALID_ARGUMENT, "the student has " + std::to_string(ports.size()) + " input(s), got " + std::to_string(input_count));
        for (std::size_t i = 0; i < input_count; ++i) {
            const edgekd_tensor& input = inputs[i];
            const std::string name = '"' + ports[i].name + '"';
            if (input.dtype != ports[i].dtype || input.count < made.length)
                fail(EDGEKD_INVALID_ARGUMENT, name + " takes " + std::to_string(made.length) + " values of " +
                                                  edgekd_dtype_name(ports[i].dtype) + "; room was given for " +
                                                  std::to_string(input.count) + " of " + edgekd_dtype_name(input.dtype));
            if (input.data == nullptr || reinterpret_cast<std::uintptr_t>(input.data) % edgekd_dtype_bytes(input.dtype) != 0)
                fail(EDGEKD_INVALID_ARGUMENT, name + " is a null pointer, or not aligned for " + edgekd_dtype_name(input.dtype));
        }
        for (std::size_t i = 0; i < input_count; ++i) tokenizer_of(*student).fill(made, ports[i], inputs[i].data);
    });
}

edgekd_status edgekd_run_text(edgekd_student* student, const char* text, size_t text_bytes, const char* pair, size_t pair_bytes,
                              const edgekd_tensor* outputs, size_t output_count) noexcept {
    return guarded([&] {
        needed(student, "student");
        const auto& signature = student->bundle.signature;
        const Tokenizer::Text made = read(*student, text, text_bytes, pair, pair_bytes);
        const std::int64_t shape[] = {1, static_cast<std::int64_t>(made.length)};
        std::vector<std::vector<std::int64_t>> rooms;  // large enough, and aligned, for either type
        std::vector<edgekd_const_tensor> inputs;
        for (const edgekd::core::Port& port : signature.inputs) {
            rooms.emplace_back(made.length);
            tokenizer_of(*student).fill(made, port, rooms.back().data());
            inputs.push_back({rooms.back().data(), made.length, port.dtype, shape, 2});
        }
        const std::lock_guard<std::mutex> turn(student->turn);
        signature.check(inputs.data(), inputs.size(), outputs, output_count, student->call);
        student->session->run(student->call);
    });
}
