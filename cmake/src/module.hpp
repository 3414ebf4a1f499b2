// module.hpp: what passes between the library and a module.
//
// A runtime with a C API is called by looking its functions up in its library (session_openvino.cpp). A runtime that is C++
// only cannot be: its session is compiled with the app, against the headers that came with the runtime, into a shared library
// of its own: module_<backend>.cpp makes libedgekd_<backend>.so. That is loaded when a student is opened, like a runtime; so the
// app starts, and says what is missing, without it, and the runtime's standard of C++ and its symbols stay inside.
//
// A module defines a class with a constructor from an Engine and run(inputs, outputs), and says EDGEKD_MODULE(class, version).
#pragma once

#include "failure.hpp"
#include "signature.hpp"

#include <edgekd/edgekd.h>

namespace edgekd::module {

constexpr int kInterface = 1;  // counted up when what is below changes

// A number or a switch among the options of engine.json.
struct Option {
    const char* key;
    double value;
};

// What a module opens. The files go after that; the ports live as long as the session.
struct Engine {
    const edgekd_file* files;  // of the engine, by their paths inside it
    std::size_t file_count;
    const char* file;           // the one that engine.json names
    const edgekd_port* inputs;  // by the runtime's own names of them
    std::size_t input_count;
    const edgekd_port* outputs;
    std::size_t output_count;
    const Option* options;
    std::size_t option_count;
    int threads;  // of one call: 1 or more

    // A file by its path; null if there is none.
    const edgekd_file* find(std::string_view path) const noexcept {
        for (std::size_t i = 0; i < file_count; ++i)
            if (path == files[i].path) return &files[i];
        return nullptr;
    }
    const edgekd_file& at(std::string_view path) const {
        const edgekd_file* found = find(path);
        if (found == nullptr)
            core::fail(EDGEKD_DAMAGED, "engine/" + std::string(path) + " is missing; copy or compile the bundle again");
        return *found;
    }
};

// What edgekd_module() of a module gives. Each status is EDGEKD_OK or has the runtime's words.
struct Interface {
    int interface;
    const char* version;  // of the runtime whose headers it was compiled against
    edgekd_status (*open)(const Engine* engine, void** session);
    edgekd_status (*run)(void* session, const core::Tensor* inputs, const core::Tensor* outputs);
    void (*close)(void* session);
};

template <class Session>
edgekd_status open(const Engine* engine, void** session) noexcept {
    return core::guarded([&] { *session = new Session(*engine); });
}

template <class Session>
edgekd_status run(void* session, const core::Tensor* inputs, const core::Tensor* outputs) noexcept {
    return core::guarded([&] { static_cast<Session*>(session)->run(inputs, outputs); });
}

template <class Session>
void close(void* session) noexcept {
    delete static_cast<Session*>(session);
}

}  // namespace edgekd::module

extern "C" EDGEKD_API const edgekd::module::Interface* edgekd_module() noexcept;

#define EDGEKD_MODULE(Session, version)                                                                         \
    const edgekd::module::Interface* edgekd_module() noexcept {                                                  \
        static const edgekd::module::Interface found = {edgekd::module::kInterface, version,                     \
                                                        edgekd::module::open<Session>, edgekd::module::run<Session>, \
                                                        edgekd::module::close<Session>};                         \
        return &found;                                                                                           \
    }
