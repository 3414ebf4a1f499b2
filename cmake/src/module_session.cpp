// Loading a module, handing it the engine, and passing calls on.
#include "module_session.hpp"

#include "failure.hpp"
#include "library.hpp"
#include "module.hpp"
#include "runtime_version.hpp"

#include <map>
#include <mutex>

namespace edgekd::core {
namespace {

// Loaded once a backend: later sessions share the first one's library.
const module::Interface& loaded(const Opening& opening, const ModuleKind& kind) {
    struct Loaded {
        Library library;
        const module::Interface* found;
    };
    static std::mutex mutex;
    static std::map<std::string, Loaded>* all = new std::map<std::string, Loaded>;
    const std::lock_guard<std::mutex> hold(mutex);
    auto at = all->find(kind.backend);
    if (at == all->end()) {
        const std::string file = std::string("libedgekd_") + kind.backend + ".so";
        const std::string cure = (kind.cure != nullptr ? kind.cure : install(opening, kind.package)) +
                                 "; then run CMake and the build again, which make " + file +
                                 " anew (a program that was moved finds it by its RUNPATH, or where " + kind.environment + " says)";
        const Library library({opening.library, opening.found, {file}, {}, cure});
        const module::Interface* (*get)() = nullptr;
        library.take(get, "edgekd_module", "module of edgekd");
        if (get()->interface != module::kInterface)
            fail(EDGEKD_OTHER_RUNTIME, library.path() + " was built with another edgekd than this program: run CMake and the build again");
        at = all->emplace(kind.backend, Loaded{library, get()}).first;
    }
    refuse_older(opening, kind.package, at->second.found->version, at->second.library.path());
    return *at->second.found;
}

std::vector<edgekd_port> ports_of(const std::vector<Port>& ports, const std::vector<std::string>& names) {
    if (!names.empty() && names.size() != ports.size())
        fail(EDGEKD_DAMAGED, "engine.json names other inputs or outputs than bundle.json");
    std::vector<edgekd_port> found;
    for (std::size_t i = 0; i < ports.size(); ++i) {
        const Port& port = ports[i];
        found.push_back({(names.empty() ? port.name : names[i]).c_str(), port.dtype, port.shape.size(), port.shape.data(), port.count});
    }
    return found;
}

class ModuleSession final : public Session {
  public:
    ModuleSession(const Opening& opening, ModuleKind kind)
        : kind_(std::move(kind)),
          module_(loaded(opening, kind_)),
          inputs_(ports_of(opening.bundle.signature.inputs, kind_.inputs)),
          outputs_(ports_of(opening.bundle.signature.outputs, kind_.outputs)) {
        const Json& engine = opening.bundle.engine;
        constexpr std::string_view kFolder = "engine/";
        std::vector<edgekd_file> files;
        for (const auto& [path, bytes] : opening.files.all())
            if (path.compare(0, kFolder.size(), kFolder) == 0)
                files.push_back({path.c_str() + kFolder.size(), bytes.data, bytes.data + bytes.size});
        std::vector<module::Option> options;
        for (const auto& [key, value] : engine.at("options").members()) {
            if (value.is(Json::Kind::boolean)) options.push_back({key.c_str(), value.boolean() ? 1.0 : 0.0});
            if (value.is(Json::Kind::number)) options.push_back({key.c_str(), value.number()});
        }
        const int threads = threads_of(opening, engine, "threads");
        const module::Engine given = {files.data(),   files.size(),    engine.at("file").text().c_str(),
                                      inputs_.data(), inputs_.size(),  outputs_.data(),
                                      outputs_.size(), options.data(), options.size(),
                                      threads > 0 ? threads : 1};
        good(module_.open(&given, &session_));
    }
    ~ModuleSession() override { module_.close(session_); }

    const char* version() const noexcept override { return module_.version; }

    void run(const Call& call) override { good(module_.run(session_, call.inputs.data(), call.outputs.data())); }

  private:
    static void good(const edgekd_status& status) {
        if (status.code != EDGEKD_OK) fail(status.code, status.message);
    }

    ModuleKind kind_;
    const module::Interface& module_;
    std::vector<edgekd_port> inputs_;
    std::vector<edgekd_port> outputs_;
    void* session_ = nullptr;
};

}  // namespace

std::unique_ptr<Session> open_module(const Opening& opening, const ModuleKind& kind) {
    return std::make_unique<ModuleSession>(opening, kind);
}

}  // namespace edgekd::core
