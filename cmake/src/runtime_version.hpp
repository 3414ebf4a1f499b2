// What a session asks of engine.json: the version that a bundle was compiled with, whether the loaded one may run it, threads.
#pragma once

#include "session.hpp"

#include <string>

namespace edgekd::core {

// The version of `package` in engine.json; empty if it does not say.
std::string compiled_with(const Opening& opening, const char* package);

// "pip install PACKAGE==VERSION": the version that the bundle was compiled with, if that is known.
std::string install(const Opening& opening, const char* package);

// Threads as `where`, a part of engine.json, says under `key`; or, of one call, as the app says. A Failure of EDGEKD_DAMAGED for a number
// that no machine has.
int threads_said(const Json& where, const char* key);
int threads_of(const Opening& opening, const Json& where, const char* key);

// A Failure of EDGEKD_OTHER_RUNTIME if `loaded`, found at `path`, is of an older minor version than the bundle was compiled
// with, unless the app takes any version.
void refuse_older(const Opening& opening, const char* package, const char* loaded, const std::string& path);

}  // namespace edgekd::core
