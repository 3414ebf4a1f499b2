// WordPiece: characters to words, words to the longest pieces known.
#include "wordpiece.hpp"

#include "failure.hpp"
#include "unicode.hpp"

#include <algorithm>
#include <limits>

namespace edgekd::core {
namespace {

constexpr std::string_view kInside = "##";
constexpr std::size_t kLongest = 100;  // characters of a word; a longer one is unknown

}  // namespace

std::pair<std::size_t, std::size_t> kept_lengths(std::size_t first, std::size_t second, std::size_t room) noexcept {
    if (first + second <= room) return {first, second};
    const std::size_t less = std::min({first, second, room / 2});
    return first <= second ? std::pair(less, room - less) : std::pair(room - less, less);
}

WordPiece::WordPiece(std::string_view vocabulary, Switches switches) : switches_(switches) {
    const auto lines = static_cast<std::size_t>(std::count(vocabulary.begin(), vocabulary.end(), '\n')) + 1;
    if (lines > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) fail(EDGEKD_DAMAGED, "the vocabulary is too large");
    begin_.reserve(lines);
    std::int32_t number = 0;
    while (!vocabulary.empty()) {
        const std::size_t end = std::min(vocabulary.find('\n'), vocabulary.size());
        std::string_view piece = vocabulary.substr(0, end);
        if (!piece.empty() && piece.back() == '\r') piece.remove_suffix(1);
        const bool inside = piece.substr(0, kInside.size()) == kInside;
        if (inside) piece.remove_prefix(kInside.size());
        (inside ? inside_ : begin_)[piece] = number++;
        vocabulary.remove_prefix(std::min(end + 1, vocabulary.size()));
    }
    unknown_ = needed("[UNK]");
    first_ = needed("[CLS]");
    last_ = needed("[SEP]");
    padding_ = needed("[PAD]");
}

std::int32_t WordPiece::needed(std::string_view mark) const {
    const auto found = begin_.find(mark);
    if (found == begin_.end()) fail(EDGEKD_DAMAGED, "the vocabulary has no " + std::string(mark) + "; copy or compile the bundle again");
    return found->second;
}

std::vector<std::int32_t> WordPiece::tokens(std::string_view text) const {
    std::vector<std::int32_t> found;
    std::u32string word, plain, small;
    const auto end_word = [&] {
        if (!word.empty()) cut(word, found);
        word.clear();
    };
    for (const char32_t character : characters(text)) {
        const Kind what = kind(character);
        if (what == Kind::control) continue;
        const bool alone = switches_.cjk && is_ideograph(character);
        if (what == Kind::space || alone) end_word();
        if (what == Kind::space) continue;
        plain.clear();
        if (switches_.strip_accents) without_marks(character, plain);
        else plain.push_back(character);
        small.clear();
        for (const char32_t one : plain)
            if (switches_.lowercase) lower(one, small);
            else small.push_back(one);
        for (const char32_t one : small) {
            const bool mark = kind(one) == Kind::punctuation;
            if (mark) end_word();
            word.push_back(one);
            if (mark) end_word();
        }
        if (alone) end_word();
    }
    end_word();
    return found;
}

void WordPiece::cut(std::u32string_view word, std::vector<std::int32_t>& out) const {
    const std::size_t before = out.size();
    if (word.size() > kLongest) return out.push_back(unknown_);
    std::string bytes;
    std::vector<std::size_t> at;  // where each character begins, and where the last one ends
    for (const char32_t character : word) {
        at.push_back(bytes.size());
        put_utf8(character, bytes);
    }
    at.push_back(bytes.size());
    const std::string_view whole = bytes;
    for (std::size_t start = 0; start < word.size();) {
        const Numbers& known = start == 0 ? begin_ : inside_;
        std::size_t end = word.size();
        auto found = known.end();
        for (; end > start; --end)
            if (found = known.find(whole.substr(at[start], at[end] - at[start])); found != known.end()) break;
        if (found == known.end()) {
            out.resize(before);
            return out.push_back(unknown_);
        }
        out.push_back(found->second);
        start = end;
    }
}

}  // namespace edgekd::core
