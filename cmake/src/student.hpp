// edgekd_student: an opened bundle, its session, and whose turn it is.
#pragma once

#include "session.hpp"

#include <edgekd/linked.h>

#include <map>
#include <memory>
#include <mutex>

namespace edgekd::core {
class Tokenizer;
}  // namespace edgekd::core

struct edgekd_student {
    edgekd_student(const edgekd::core::Files& files, const std::string& where, const edgekd_options* options,
                   const edgekd_linked* linked);

    edgekd::core::Bundle bundle;
    std::vector<unsigned char> golden;  // the bundle's golden.npz, for the self-test
    std::unique_ptr<edgekd::core::Session> session;
    std::mutex turn;  // held during a call
    edgekd::core::Call call;

    std::map<std::string, std::vector<unsigned char>> tokenizer_files;  // by their names in tokenizer/, where it takes text
    mutable std::mutex reading;                                         // held while they are read
    mutable std::shared_ptr<const edgekd::core::Tokenizer> tokenizer;   // of them; null until a text came
};

namespace edgekd::core {

// What edgekd_add_student linked: a student by its name, a runtime by its backend; null if there is none.
const edgekd_linked* linked_student(const std::string& name);
const edgekd_linked* linked_runtime(const std::string& backend);
// "a, b" of all that is linked.
std::string linked_students();
std::string linked_runtimes();

void self_test(edgekd_student& student, double slowdown, edgekd_report& report);

}  // namespace edgekd::core
