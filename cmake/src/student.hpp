// edgekd_student: an opened bundle, its session, and whose turn it is.
#pragma once

#include "session.hpp"

#include <edgekd/linked.h>

#include <mutex>

struct edgekd_student {
    edgekd_student(const edgekd::core::Files& files, const std::string& where, const edgekd_options* options,
                   const edgekd_linked* linked);

    edgekd::core::Bundle bundle;
    std::vector<unsigned char> golden;  // the bundle's golden.npz, for the self-test
    std::unique_ptr<edgekd::core::Session> session;
    std::mutex turn;  // held during a call
    edgekd::core::Call call;
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
