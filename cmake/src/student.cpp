// The C API: every function checks its pointers, does its work in C++, and turns a Failure into a status.
#include "student.hpp"

#include "failure.hpp"
#include "processing.hpp"

#include <edgekd/linked.h>

#include <cstdlib>

using edgekd::core::fail;
using edgekd::core::guarded;
using edgekd::core::needed;

namespace {

std::unique_ptr<edgekd::core::Session> opened(const edgekd::core::Bundle& bundle, const edgekd::core::Files& files,
                                              const edgekd_options& options, const char* found_library) {
    const edgekd_linked* linked = edgekd::core::linked_runtime(bundle.backend);
    if (linked == nullptr)
        fail(EDGEKD_NO_RUNTIME, "the bundle's engine is for " + bundle.backend + "; this program links " +
                                    edgekd::core::linked_runtimes() + ": name the bundle in edgekd_add_student(...)");
    const edgekd_runtime& runtime = *linked->runtime;
    const char* said = options.runtime;
    if (said == nullptr && *runtime.environment != '\0') said = std::getenv(runtime.environment);
    if (found_library == nullptr) found_library = linked->library;
    return runtime.open({bundle, files, options.threads, options.any_version != 0, said != nullptr ? said : "",
                         found_library != nullptr ? found_library : ""});
}

// The key that must have signed a bundle: the caller's, else the one linked with the student; null: none.
const char* key_of(const edgekd_options* options, const edgekd_linked* linked) noexcept {
    if (options != nullptr && options->public_key != nullptr) return options->public_key;
    return linked != nullptr ? linked->public_key : nullptr;
}

template <class Find>
edgekd_status open_with(const edgekd_options* options, edgekd_student** student, Find&& find) noexcept {
    if (student != nullptr) *student = nullptr;
    return guarded([&] {
        needed(student, "student");
        *student = find(options);
    });
}

edgekd_status port_of(const edgekd_student* student, const char* side, std::size_t index, edgekd_port* port) noexcept {
    return guarded([&] {
        needed(student, "student");
        needed(port, "port");
        const auto& signature = student->bundle.signature;
        const auto& ports = side[0] == 'i' ? signature.inputs : signature.outputs;
        if (index >= ports.size())
            fail(EDGEKD_INVALID_ARGUMENT, "there is no " + std::string(side) + ' ' + std::to_string(index) +
                                              ": the student has " + std::to_string(ports.size()));
        const auto& found = ports[index];
        *port = {found.name.c_str(), found.dtype, found.shape.size(), found.shape.data(), found.count};
    });
}

}  // namespace

edgekd_student::edgekd_student(const edgekd::core::Files& files, const std::string& where, const edgekd_options* options,
                               const edgekd_linked* linked)
    : bundle(files, where, key_of(options, linked)),
      golden(bundle.golden.data, bundle.golden.data + bundle.golden.size),
      session(opened(bundle, files, options != nullptr ? *options : edgekd_options{}, linked != nullptr ? linked->library : nullptr)),
      call(bundle.signature.call()) {
    bundle.golden = {golden.data(), golden.size()};
    bundle.engine_file = {};
    constexpr std::string_view kFolder = "tokenizer/";
    for (const auto& [path, bytes] : files.all())
        if (path.compare(0, kFolder.size(), kFolder) == 0)
            tokenizer_files[path.substr(kFolder.size())].assign(bytes.data, bytes.data + bytes.size);
}

edgekd_status edgekd_open(const char* folder, const edgekd_options* options, edgekd_student** student) noexcept {
    return open_with(options, student, [&](const edgekd_options* given) {
        needed(folder, "folder");
        return new edgekd_student(edgekd::core::Files::in_folder(folder), folder, given, nullptr);
    });
}

edgekd_status edgekd_open_files(const edgekd_file* files, size_t count, const edgekd_options* options,
                                edgekd_student** student) noexcept {
    return open_with(options, student, [&](const edgekd_options* given) {
        return new edgekd_student(edgekd::core::Files::in_memory(files, count), "the bundle in memory", given, nullptr);
    });
}

edgekd_status edgekd_open_linked(const char* name, const edgekd_options* options, edgekd_student** student) noexcept {
    return open_with(options, student, [&](const edgekd_options* given) {
        needed(name, "name");
        const edgekd_linked* linked = edgekd::core::linked_student(name);
        if (linked == nullptr)
            fail(EDGEKD_NOT_FOUND, "no student \"" + std::string(name) + "\" is linked; linked: " +
                                       edgekd::core::linked_students() + ": add one with edgekd_add_student(...) in CMake");
        auto files = linked->folder != nullptr ? edgekd::core::Files::in_folder(linked->folder)
                                               : edgekd::core::Files::in_memory(linked->files, linked->count);
        const std::string where = linked->folder != nullptr ? linked->folder : "the linked bundle " + std::string(name);
        return new edgekd_student(files, where, given, linked);
    });
}

void edgekd_close(edgekd_student* student) noexcept { delete student; }

size_t edgekd_input_count(const edgekd_student* student) noexcept {
    return student != nullptr ? student->bundle.signature.inputs.size() : 0;
}

size_t edgekd_output_count(const edgekd_student* student) noexcept {
    return student != nullptr ? student->bundle.signature.outputs.size() : 0;
}

edgekd_status edgekd_input_port(const edgekd_student* student, size_t index, edgekd_port* port) noexcept {
    return port_of(student, "input", index, port);
}

edgekd_status edgekd_output_port(const edgekd_student* student, size_t index, edgekd_port* port) noexcept {
    return port_of(student, "output", index, port);
}

size_t edgekd_label_count(const edgekd_student* student) noexcept {
    return student != nullptr ? student->bundle.signature.labels.size() : 0;
}

const char* edgekd_label(const edgekd_student* student, size_t index) noexcept {
    return index < edgekd_label_count(student) ? student->bundle.signature.labels[index].c_str() : nullptr;
}

const double* edgekd_constant(const edgekd_student* student, const char* key, size_t* count) noexcept {
    if (count != nullptr) *count = 0;
    if (student == nullptr || key == nullptr || count == nullptr) return nullptr;
    for (const auto& [known, values] : student->bundle.signature.constants)
        if (known == key && !values.empty()) {
            *count = values.size();
            return values.data();
        }
    return nullptr;
}

const char* edgekd_setting(const edgekd_student* student, const char* key) noexcept {
    if (student == nullptr || key == nullptr) return nullptr;
    for (const auto& [known, value] : student->bundle.signature.settings)
        if (known == key) return value.c_str();
    return nullptr;
}

const char* edgekd_name(const edgekd_student* student) noexcept {
    return student != nullptr ? student->bundle.name.c_str() : nullptr;
}

const char* edgekd_backend(const edgekd_student* student) noexcept {
    return student != nullptr ? student->bundle.backend.c_str() : nullptr;
}

const char* edgekd_runtime_version(const edgekd_student* student) noexcept {
    return student != nullptr ? student->session->version() : nullptr;
}

edgekd_status edgekd_run(edgekd_student* student, const edgekd_const_tensor* inputs, size_t input_count,
                         const edgekd_tensor* outputs, size_t output_count) noexcept {
    return guarded([&] {
        needed(student, "student");
        const std::lock_guard<std::mutex> turn(student->turn);
        student->bundle.signature.check(inputs, input_count, outputs, output_count, student->call);
        student->session->run(student->call);
    });
}

edgekd_status edgekd_preprocess(const edgekd_student* student, const edgekd_const_tensor* raw, const edgekd_tensor* input) noexcept {
    return guarded([&] {
        needed(student, "student");
        needed(raw, "raw");
        needed(input, "input");
        edgekd::core::preprocess(student->bundle.manifest.at("signature"), student->bundle.signature.inputs, *raw, *input);
    });
}

edgekd_status edgekd_postprocess(const edgekd_student* student, const edgekd_const_tensor* output, edgekd_class* classes,
                                 size_t* count) noexcept {
    const size_t room = count != nullptr ? *count : 0;
    if (count != nullptr) *count = 0;
    return guarded([&] {
        needed(student, "student");
        needed(output, "output");
        needed(classes, "classes");
        needed(count, "count");
        const auto& bundle = student->bundle;
        *count = edgekd::core::postprocess(bundle.manifest.at("signature"), bundle.signature.labels, *output, classes, room);
    });
}

edgekd_status edgekd_self_test(edgekd_student* student, double slowdown, edgekd_report* report) noexcept {
    edgekd_report own{};
    edgekd_report& filled = report != nullptr ? *report : own;
    filled = own;
    return guarded([&] {
        needed(student, "student");
        edgekd::core::self_test(*student, slowdown, filled);
    });
}
