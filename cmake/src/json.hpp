// Json: a strict reader of RFC 8259 for bundle.json and engine.json, which may come from anywhere.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgekd::core {

// One value. Reading a wrong kind, or a member that is not there, is a Failure of EDGEKD_DAMAGED that names it.
class Json {
  public:
    enum class Kind { null, boolean, number, text, list, object };
    using Member = std::pair<std::string, Json>;

    static constexpr std::size_t kDeepest = 64;

    // The value that `source` is, whole: nothing may follow it, no key may come twice, text must be UTF-8. `name` is the
    // file's, for messages.
    static Json parse(std::string_view source, std::string_view name);

    Kind kind() const noexcept { return kind_; }
    bool is(Kind kind) const noexcept { return kind_ == kind; }

    // A member of an object; null if there is none, or this is no object.
    const Json* find(std::string_view key) const noexcept;
    const Json& at(std::string_view key) const;

    const std::string& text() const;
    double number() const;
    bool boolean() const;
    // A number that is a whole one and fits.
    long long integer() const;
    const std::vector<Json>& list() const;
    const std::vector<Member>& members() const;

  private:
    friend class JsonReader;
    void must_be(Kind kind, const char* said) const;

    Kind kind_ = Kind::null;
    bool boolean_ = false;
    double number_ = 0;
    std::string text_;
    std::vector<Json> list_;
    std::vector<Member> members_;
};

}  // namespace edgekd::core
