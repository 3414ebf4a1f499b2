// A recursive-descent reader of RFC 8259; every refusal names file and byte.
#include "json.hpp"

#include "failure.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <locale>
#include <sstream>

namespace edgekd::core {

class JsonReader {
  public:
    JsonReader(std::string_view source, std::string_view name) : source_(source), name_(name) {}

    Json whole() {
        Json found = value(0);
        space();
        if (at_ != source_.size()) refuse("something follows the value");
        return found;
    }

  private:
    [[noreturn]] void refuse(const char* why) const {
        fail(EDGEKD_DAMAGED, std::string(name_) + " is damaged: byte " + std::to_string(at_) + ": " + why +
                                 "; copy or compile the bundle again");
    }

    char peek() const noexcept { return at_ < source_.size() ? source_[at_] : '\0'; }

    char next() {
        if (at_ == source_.size()) refuse("it ends too early");
        return source_[at_++];
    }

    void space() noexcept {
        while (at_ < source_.size() && std::string_view(" \t\n\r").find(source_[at_]) != std::string_view::npos) ++at_;
    }

    void word(std::string_view expected) {
        if (source_.substr(at_, expected.size()) != expected) refuse("neither true, false nor null");
        at_ += expected.size();
    }

    Json value(std::size_t depth) {
        if (depth > Json::kDeepest) refuse("nested too deep");
        space();
        Json found;
        switch (peek()) {
            case '{': object(found, depth); break;
            case '[': list(found, depth); break;
            case '"':
                found.kind_ = Json::Kind::text;
                found.text_ = text();
                break;
            case 't':
            case 'f':
                found.kind_ = Json::Kind::boolean;
                found.boolean_ = peek() == 't';
                word(found.boolean_ ? "true" : "false");
                break;
            case 'n': word("null"); break;
            default:
                found.kind_ = Json::Kind::number;
                found.number_ = number();
        }
        return found;
    }

    // Whether another item follows; takes the comma or the closing bracket.
    bool more(char closing) {
        space();
        const char found = next();
        if (found != ',' && found != closing) refuse("neither a comma nor a closing bracket");
        return found == ',';
    }

    void list(Json& found, std::size_t depth) {
        found.kind_ = Json::Kind::list;
        ++at_;
        space();
        if (peek() == ']') {
            ++at_;
            return;
        }
        do found.list_.push_back(value(depth + 1));
        while (more(']'));
    }

    void object(Json& found, std::size_t depth) {
        found.kind_ = Json::Kind::object;
        ++at_;
        space();
        if (peek() == '}') {
            ++at_;
            return;
        }
        do {
            space();
            if (peek() != '"') refuse("a key must be text");
            std::string key = text();
            space();
            if (next() != ':') refuse("no colon after a key");
            found.members_.emplace_back(std::move(key), value(depth + 1));
        } while (more('}'));
        std::vector<std::string_view> keys;
        for (const Json::Member& member : found.members_) keys.push_back(member.first);
        std::sort(keys.begin(), keys.end());
        if (std::adjacent_find(keys.begin(), keys.end()) != keys.end()) refuse("the same key twice");
    }

    static bool digit(char c) noexcept { return c >= '0' && c <= '9'; }

    void digits() {
        if (!digit(peek())) refuse("not a value");
        while (digit(peek())) ++at_;
    }

    double number() {
        const std::size_t from = at_;
        if (peek() == '-') ++at_;
        if (peek() == '0') ++at_;
        else digits();
        if (peek() == '.') {
            ++at_;
            digits();
        }
        if (peek() == 'e' || peek() == 'E') {
            ++at_;
            if (peek() == '+' || peek() == '-') ++at_;
            digits();
        }
        std::istringstream stream{std::string(source_.substr(from, at_ - from))};
        stream.imbue(std::locale::classic());  // a point is a point, whatever the app's locale
        double found = 0;
        if (!(stream >> found)) refuse("a number too large");
        return found;
    }

    unsigned hex() {
        unsigned found = 0;
        for (int i = 0; i < 4; ++i) {
            const char c = next();
            unsigned step = 0;
            if (digit(c)) step = static_cast<unsigned>(c - '0');
            else if (c >= 'a' && c <= 'f') step = static_cast<unsigned>(c - 'a') + 10;
            else if (c >= 'A' && c <= 'F') step = static_cast<unsigned>(c - 'A') + 10;
            else refuse("not four hexadecimal digits");
            found = found * 16 + step;
        }
        return found;
    }

    // \uXXXX, or a pair of surrogates, as UTF-8.
    void escaped(std::string& out) {
        std::uint32_t code = hex();
        if (code >= 0xDC00 && code < 0xE000) refuse("half a surrogate pair");
        if (code >= 0xD800 && code < 0xDC00) {
            if (next() != '\\' || next() != 'u') refuse("half a surrogate pair");
            const unsigned low = hex();
            if (low < 0xDC00 || low >= 0xE000) refuse("half a surrogate pair");
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        }
        const auto put = [&out](std::uint32_t byte) { out.push_back(static_cast<char>(byte)); };
        if (code < 0x80) {
            put(code);
        } else if (code < 0x800) {
            put(0xC0 | (code >> 6));
            put(0x80 | (code & 0x3F));
        } else if (code < 0x10000) {
            put(0xE0 | (code >> 12));
            put(0x80 | ((code >> 6) & 0x3F));
            put(0x80 | (code & 0x3F));
        } else {
            put(0xF0 | (code >> 18));
            put(0x80 | ((code >> 12) & 0x3F));
            put(0x80 | ((code >> 6) & 0x3F));
            put(0x80 | (code & 0x3F));
        }
    }

    // The rest of a character whose first byte is `first` and not ASCII: shortest form, no surrogate, at most U+10FFFF.
    void utf8(unsigned char first, std::string& out) {
        const int rest = first >= 0xC2 && first < 0xE0 ? 1 : first >= 0xE0 && first < 0xF0 ? 2
                         : first >= 0xF0 && first < 0xF5 ? 3 : 0;
        if (rest == 0) refuse("not UTF-8");
        out.push_back(static_cast<char>(first));
        for (int i = 0; i < rest; ++i) {
            const auto byte = static_cast<unsigned char>(next());
            unsigned char low = 0x80;
            unsigned char high = 0xBF;
            if (i == 0 && first == 0xE0) low = 0xA0;
            if (i == 0 && first == 0xED) high = 0x9F;
            if (i == 0 && first == 0xF0) low = 0x90;
            if (i == 0 && first == 0xF4) high = 0x8F;
            if (byte < low || byte > high) refuse("not UTF-8");
            out.push_back(static_cast<char>(byte));
        }
    }

    std::string text() {
        ++at_;
        std::string found;
        for (;;) {
            const auto c = static_cast<unsigned char>(next());
            if (c == '"') return found;
            if (c < 0x20) refuse("a control character inside text");
            if (c >= 0x80) {
                utf8(c, found);
            } else if (c != '\\') {
                found.push_back(static_cast<char>(c));
            } else {
                static constexpr std::string_view kNames = "\"\\/bfnrt";
                static constexpr std::string_view kMeant = "\"\\/\b\f\n\r\t";
                const char name = next();
                const std::size_t index = kNames.find(name);
                if (name == 'u') escaped(found);
                else if (index != std::string_view::npos) found.push_back(kMeant[index]);
                else refuse("an unknown escape");
            }
        }
    }

    std::string_view source_;
    std::string_view name_;
    std::size_t at_ = 0;
};

Json Json::parse(std::string_view source, std::string_view name) { return JsonReader(source, name).whole(); }

void Json::must_be(Kind kind, const char* said) const {
    if (kind_ != kind) fail(EDGEKD_DAMAGED, std::string("bundle.json or engine.json is damaged: expected ") + said);
}

const Json* Json::find(std::string_view key) const noexcept {
    for (const Member& member : members_)
        if (member.first == key) return &member.second;
    return nullptr;
}

const Json& Json::at(std::string_view key) const {
    const Json* found = find(key);
    if (found == nullptr)
        fail(EDGEKD_DAMAGED, "bundle.json or engine.json is damaged: it has no \"" + std::string(key) + '"');
    return *found;
}

const std::string& Json::text() const {
    must_be(Kind::text, "text");
    return text_;
}

double Json::number() const {
    must_be(Kind::number, "a number");
    return number_;
}

bool Json::boolean() const {
    must_be(Kind::boolean, "true or false");
    return boolean_;
}

long long Json::integer() const {
    constexpr double kExact = 9007199254740992;  // 2^53: up to here every integer is a double
    const double found = number();
    if (std::nearbyint(found) != found || std::abs(found) > kExact)
        fail(EDGEKD_DAMAGED, "bundle.json or engine.json is damaged: expected a whole number");
    return static_cast<long long>(found);
}

const std::vector<Json>& Json::list() const {
    must_be(Kind::list, "a list");
    return list_;
}

const std::vector<Json::Member>& Json::members() const {
    must_be(Kind::object, "an object");
    return members_;
}

}  // namespace edgekd::core
