// The students and runtimes that were linked into this program, in a list that static constructors fill.
#include <edgekd/linked.h>

#include "session.hpp"
#include "student.hpp"

#include <mutex>

namespace {

std::mutex& guard() {
    static std::mutex mutex;
    return mutex;
}

edgekd_linked* first = nullptr;

template <class Text>
std::string listed(Text&& text) {
    const std::lock_guard<std::mutex> hold(guard());
    std::string found;
    for (const edgekd_linked* one = first; one != nullptr; one = one->next)
        if (const char* name = text(*one)) found += (found.empty() ? "" : ", ") + std::string(name);
    return found.empty() ? "none" : found;
}

template <class Is>
const edgekd_linked* find(Is&& is) {
    const std::lock_guard<std::mutex> hold(guard());
    for (const edgekd_linked* one = first; one != nullptr; one = one->next)
        if (is(*one)) return one;
    return nullptr;
}

}  // namespace

void edgekd_link(edgekd_linked* linked) noexcept {
    if (linked == nullptr) return;
    const std::lock_guard<std::mutex> hold(guard());
    linked->next = first;
    first = linked;
}

namespace edgekd::core {

const edgekd_linked* linked_student(const std::string& name) {
    return find([&](const edgekd_linked& one) { return one.name != nullptr && name == one.name; });
}

const edgekd_linked* linked_runtime(const std::string& backend) {
    return find([&](const edgekd_linked& one) { return one.runtime != nullptr && backend == one.runtime->backend; });
}

std::string linked_students() {
    return listed([](const edgekd_linked& one) { return one.name; });
}

std::string linked_runtimes() {
    return listed([](const edgekd_linked& one) { return one.runtime != nullptr ? one.runtime->backend : nullptr; });
}

}  // namespace edgekd::core
