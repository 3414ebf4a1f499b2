// Characters as WordPiece asks of them: edgekd/wordpiece.py, by tables of one version of Unicode (unicode_tables.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace edgekd::core {

enum class Kind : std::uint32_t { letter, space, control, punctuation, mark };

Kind kind(char32_t character) noexcept;
// Its canonical decomposition but for nonspacing marks, put behind `out`.
void without_marks(char32_t character, std::u32string& out);
// Its lower case without looking at its neighbours, put behind `out`.
void lower(char32_t character, std::u32string& out);
bool is_ideograph(char32_t character) noexcept;

// The characters of UTF-8, of which WordPiece keeps all but control characters. What is no UTF-8 is left out, byte by byte.
std::u32string characters(std::string_view utf8);
void put_utf8(char32_t character, std::string& out);

}  // namespace edgekd::core
