// WordPiece: text to numbers as edgekd/wordpiece.py makes them, to the bit; the sources stand there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace edgekd::core {

// How much is kept of two texts of so many pieces: the longer one is cut first.
std::pair<std::size_t, std::size_t> kept_lengths(std::size_t first, std::size_t second, std::size_t room) noexcept;

class WordPiece {
  public:
    struct Switches {
        bool lowercase, strip_accents, cjk;
    };

    // `vocabulary`: UTF-8, a piece a line, numbered from 0; it is looked at in place. A Failure of EDGEKD_DAMAGED where it lacks
    // [UNK], [CLS], [SEP] or [PAD].
    WordPiece(std::string_view vocabulary, Switches switches);

    std::vector<std::int32_t> tokens(std::string_view text) const;
    std::int32_t first() const noexcept { return first_; }      // [CLS]
    std::int32_t last() const noexcept { return last_; }        // [SEP]
    std::int32_t padding() const noexcept { return padding_; }  // [PAD]

  private:
    using Numbers = std::unordered_map<std::string_view, std::int32_t>;

    std::int32_t needed(std::string_view mark) const;
    void cut(std::u32string_view word, std::vector<std::int32_t>& out) const;

    Numbers begin_;   // pieces that begin a word
    Numbers inside_;  // and those that go on, without their ##
    Switches switches_;
    std::int32_t unknown_, first_, last_, padding_;
};

}  // namespace edgekd::core
