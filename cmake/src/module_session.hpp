// A session that a module has: see module.hpp.
#pragma once

#include "session.hpp"

#include <string>
#include <vector>

namespace edgekd::core {

// What is to be known of a runtime whose session is a module.
struct ModuleKind {
    const char* backend;
    const char* package;      // whose version engine.json holds
    const char* environment;  // the variable that says where the module is
    const char* cure;         // what to do if the runtime is missing, where that is not to install the package; or null
    std::vector<std::string> inputs = {};  // the runtime's own names of the ports; empty: the signature's
    std::vector<std::string> outputs = {};
};

// A Failure of EDGEKD_NO_RUNTIME or EDGEKD_OTHER_RUNTIME says with which command to mend it.
std::unique_ptr<Session> open_module(const Opening& opening, const ModuleKind& kind);

}  // namespace edgekd::core
