// Looking characters up, and UTF-8. Sources: Unicode 14.0, chapter 3, D92 (UTF-8) and section 3.12 (Hangul syllables).
#include "unicode.hpp"

#include "unicode_tables.hpp"

#include <algorithm>
#include <iterator>

namespace edgekd::core {
namespace {

namespace tables = unicode_tables;

// Hangul syllables are composed by arithmetic: 588 a leading consonant, 28 a vowel, then one a trailing consonant or none.
constexpr char32_t kSyllable = 0xAC00, kSyllables = 11172, kLeading = 0x1100, kVowel = 0x1161, kTrailing = 0x11A7;

// The last row of a sorted table whose first number is not above the character; null if there is none.
template <class Row, std::size_t N>
const Row* row_of(const Row (&table)[N], char32_t character) noexcept {
    const Row* behind = std::upper_bound(std::begin(table), std::end(table), character,
                                         [](char32_t one, const Row& row) { return one < row.first; });
    return behind == table ? nullptr : behind - 1;
}

}  // namespace

Kind kind(char32_t character) noexcept {
    const std::uint32_t* behind = std::upper_bound(std::begin(tables::kKinds), std::end(tables::kKinds), character << 3 | 7);
    return behind == tables::kKinds ? Kind::letter : static_cast<Kind>(behind[-1] & 7);
}

void without_marks(char32_t character, std::u32string& out) {
    if (character >= kSyllable && character < kSyllable + kSyllables) {
        const char32_t index = character - kSyllable;
        out.push_back(kLeading + index / 588);
        out.push_back(kVowel + index % 588 / 28);
        if (index % 28 != 0) out.push_back(kTrailing + index % 28);
        return;
    }
    if (kind(character) == Kind::mark) return;
    if (const auto* row = row_of(tables::kBases, character); row != nullptr && row->base != 0) {
        out.push_back(row->base);
    } else if (const auto* several = row_of(tables::kSeveral, character); several != nullptr && several->first == character) {
        for (const char32_t part : several->parts)
            if (part != 0) out.push_back(part);
    } else {
        out.push_back(character);
    }
}

void lower(char32_t character, std::u32string& out) {
    constexpr char32_t kDottedI = 0x130, kDot = 0x307;  // the one whose lower case is two characters
    if (character == kDottedI) {
        out.push_back(U'i');
        out.push_back(kDot);
        return;
    }
    const auto* row = row_of(tables::kLower, character);
    const bool found = row != nullptr && character <= row->last && (character - row->first) % row->step == 0;
    out.push_back(found ? static_cast<char32_t>(static_cast<std::int32_t>(character) + row->shift) : character);
}

bool is_ideograph(char32_t character) noexcept {
    return std::any_of(std::begin(tables::kIdeographs), std::end(tables::kIdeographs),
                       [=](const tables::Range& range) { return range.first <= character && character <= range.last; });
}

std::u32string characters(std::string_view utf8) {
    std::u32string found;
    found.reserve(utf8.size());
    for (std::size_t at = 0; at < utf8.size();) {
        const auto first = static_cast<unsigned char>(utf8[at++]);
        if (first < 0x80) {
            found.push_back(first);
            continue;
        }
        const std::size_t more = first >= 0xC2 && first < 0xE0 ? 1 : first >= 0xE0 && first < 0xF0 ? 2 : first >= 0xF0 && first < 0xF5 ? 3 : 0;
        char32_t character = more == 0 ? 0 : first & (0x3Fu >> more);
        std::size_t taken = 0;
        for (; taken < more && at + taken < utf8.size(); ++taken) {
            const auto byte = static_cast<unsigned char>(utf8[at + taken]);
            unsigned char low = 0x80, high = 0xBF;  // of the second byte, narrower: no longer form than needed, no surrogate
            if (taken == 0 && first == 0xE0) low = 0xA0;
            if (taken == 0 && first == 0xED) high = 0x9F;
            if (taken == 0 && first == 0xF0) low = 0x90;
            if (taken == 0 && first == 0xF4) high = 0x8F;
            if (byte < low || byte > high) break;
            character = character << 6 | (byte & 0x3Fu);
        }
        at += taken;
        if (more != 0 && taken == more) found.push_back(character);
    }
    return found;
}

void put_utf8(char32_t character, std::string& out) {
    const auto put = [&out](char32_t byte) { out.push_back(static_cast<char>(byte)); };
    if (character < 0x80) return put(character);
    if (character < 0x800) {
        put(0xC0 | character >> 6);
    } else if (character < 0x10000) {
        put(0xE0 | character >> 12);
        put(0x80 | (character >> 6 & 0x3F));
    } else {
        put(0xF0 | character >> 18);
        put(0x80 | (character >> 12 & 0x3F));
        put(0x80 | (character >> 6 & 0x3F));
    }
    put(0x80 | (character & 0x3F));
}

}  // namespace edgekd::core
