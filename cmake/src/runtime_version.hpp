// The version of a runtime that a bundle was compiled with, and whether the loaded one may run it.
#pragma once

#include "session.hpp"

#include <string>

namespace edgekd::core {

// The version of `package` in engine.json; empty if it does not say.
std::string compiled_with(const Opening& opening, const char* package);

// "pip install PACKAGE==VERSION": the version that the bundle was compiled with, if that is known.
std::string install(const Opening& opening, const char* package);

// A Failure of EDGEKD_OTHER_RUNTIME if `loaded`, found at `path`, is of an older minor version than the bundle was compiled
// with, unless the app takes any version.
void refuse_older(const Opening& opening, const char* package, const char* loaded, const std::string& path);

}  // namespace edgekd::core
