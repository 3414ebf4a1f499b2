// Racer: one engine that edgekd-bench times, with a buffer for every port; and JSON as it is written.
#pragma once

#include <edgekd/student.hpp>

#include <cstdio>
#include <string>
#include <vector>

struct Racer {
    std::string path;
    edgekd::Student student;
    std::vector<std::vector<double>> buffers;  // of doubles, so that every type is aligned
    std::vector<edgekd_const_tensor> inputs;
    std::vector<edgekd_tensor> outputs;
    std::vector<double> seconds;
    double joules = 0;

    // Zeroed buffers for every port of the opened student; a dynamic size is 1.
    void provide() {
        add(inputs, student.input_count(), &edgekd::Student::input);
        add(outputs, student.output_count(), &edgekd::Student::output);
    }

    edgekd::Status call() { return {edgekd_run(student.raw(), inputs.data(), inputs.size(), outputs.data(), outputs.size())}; }

  private:
    template <class Tensor>
    void add(std::vector<Tensor>& tensors, std::size_t count, edgekd::Port (edgekd::Student::*port)(std::size_t) const noexcept) {
        for (std::size_t i = 0; i < count; ++i) {
            const edgekd::Port found = (student.*port)(i);
            std::size_t elements = 1;
            for (std::size_t d = 0; d < found.rank; ++d)
                if (found.shape[d] > 0) elements *= static_cast<std::size_t>(found.shape[d]);
            buffers.emplace_back(elements * edgekd_dtype_bytes(found.dtype) / sizeof(double) + 1);
            tensors.push_back({buffers.back().data(), elements, found.dtype, nullptr, 0});
        }
    }
};

inline std::string quoted(const std::string& text) {
    std::string found = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') found += '\\';
        if (static_cast<unsigned char>(c) < 0x20) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
            found += escape;
        } else {
            found += c;
        }
    }
    return found + '"';
}

// null for what is no number in JSON: infinity, and what was not read.
inline std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", value);
    return value <= 1e300 ? text : "null";
}
