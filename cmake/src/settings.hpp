// Settings: a table of `preprocessing` or `postprocessing`, read strictly: edgekd/settings.py, key by key.
#pragma once

#include "failure.hpp"
#include "json.hpp"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgekd::core {

using Words = std::initializer_list<const char*>;

// What is wrong is a Failure of EDGEKD_INVALID_ARGUMENT that names the key.
class Settings {
  public:
    // `found` null: a table without keys. `known`: the keys that are applied; any other is refused.
    Settings(const Json* found, std::string where, Words known) : found_(found), where_(std::move(where)) {
        if (found_ == nullptr || found_->is(Json::Kind::null)) return;
        for (const auto& [key, value] : found_->members())
            if (std::none_of(known.begin(), known.end(), [name = std::string_view(key)](const char* one) { return name == one; }))
                fail(EDGEKD_INVALID_ARGUMENT, where_ + " has a key \"" + key + "\" that edgekd does not apply");
    }

    [[noreturn]] void wrong(const char* key, const std::string& wanted) const {
        fail(EDGEKD_INVALID_ARGUMENT, where_ + '.' + key + " is not " + wanted);
    }
    // Null where there is no such key, or null stands there.
    const Json* find(const char* key) const noexcept {
        const Json* value = found_ != nullptr ? found_->find(key) : nullptr;
        return value != nullptr && !value->is(Json::Kind::null) ? value : nullptr;
    }
    bool has(const char* key) const noexcept { return find(key) != nullptr; }
    Settings within(const char* key, Words known) const {
        const Json* inner = find(key);
        if (inner != nullptr && !inner->is(Json::Kind::object)) wrong(key, "a table");
        return Settings(inner, where_ + '.' + key, known);
    }
    double number(const char* key, double otherwise) const {
        const Json* value = find(key);
        if (value == nullptr) return otherwise;
        if (!value->is(Json::Kind::number)) wrong(key, "a number");
        return value->number();
    }
    std::string text(const char* key, const char* otherwise) const {
        const Json* value = find(key);
        if (value != nullptr && !value->is(Json::Kind::text)) wrong(key, "a text");
        return value != nullptr ? value->text() : otherwise;
    }
    std::vector<double> numbers(const char* key, double otherwise) const {
        const Json* value = find(key);
        if (value == nullptr || value->is(Json::Kind::number)) return {number(key, otherwise)};
        std::vector<double> made;
        if (value->is(Json::Kind::list))
            for (const Json& one : value->list())
                if (one.is(Json::Kind::number)) made.push_back(one.number());
        if (made.empty() || made.size() != value->list().size()) wrong(key, "a number, or a list of them");
        return made;
    }
    std::size_t whole(const char* key, std::size_t otherwise = 0) const {
        const Json* value = find(key);
        if (value == nullptr && otherwise != 0) return otherwise;
        if (value == nullptr) wrong(key, "a whole number above 0");
        return counted(*value, key);
    }
    // One whole number, or {height, width}.
    std::vector<std::size_t> size() const {
        const Json* value = find("size");
        std::vector<std::size_t> made;
        if (value != nullptr && value->is(Json::Kind::list))
            for (const Json& one : value->list()) made.push_back(counted(one, "size"));
        else if (value != nullptr) made.push_back(counted(*value, "size"));
        if (made.empty() || made.size() > 2) wrong("size", "a whole number above 0, or [height, width]");
        return made;
    }
    // Which of `known`, the first where nothing is said.
    std::size_t choice(const char* key, Words known) const {
        const Json* value = find(key);
        if (value == nullptr) return 0;
        std::string listed;
        for (const char* one : known) {
            if (value->is(Json::Kind::text) && value->text() == one)
                return static_cast<std::size_t>(std::find(known.begin(), known.end(), one) - known.begin());
            listed += (listed.empty() ? "one of " : ", ") + std::string(one);
        }
        wrong(key, listed);
    }
    bool flag(const char* key) const {
        const Json* value = find(key);
        if (value != nullptr && !value->is(Json::Kind::boolean)) wrong(key, "true or false");
        return value != nullptr && value->boolean();
    }

  private:
    std::size_t counted(const Json& value, const char* key) const {
        const double found = value.is(Json::Kind::number) ? value.number() : 0.0;
        if (!(found >= 1.0) || found >= 2147483648.0 || found != std::nearbyint(found)) wrong(key, "a whole number above 0");
        return static_cast<std::size_t>(found);
    }

    const Json* found_;
    std::string where_;
};

}  // namespace edgekd::core
