"""Text to numbers as BERT reads it: cleaned, split at spaces and punctuation, each word cut into the longest pieces known.

Source: Devlin et al. 2018, arXiv 1810.04805, section 3, whose code splits words; Wu et al. 2016, arXiv 1609.08144, section 4.1,
whose pieces they are. Characters are taken one by one, as `tokenizers`' BertNormalizer takes them: control characters (Cc, Cf,
Co, Cs), U+0000 and U+FFFD are left out; spaces are one; of its NFD a character keeps all but nonspacing marks (Mn); it is lower
case without looking at its neighbours. What stands in the text as "[SEP]" is text.

cmake/src/wordpiece.cpp does the same, by tables that tests/cxx/unicode_tables.py draws from this file.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

UNKNOWN, FIRST, LAST, PADDING = "[UNK]", "[CLS]", "[SEP]", "[PAD]"
INSIDE = "##"  # before a piece that does not begin a word
LONGEST = 100  # characters of a word; a longer one is unknown
LETTER, SPACE, CONTROL, PUNCTUATION, MARK = range(5)
# CJK unified ideographs, their extensions A to E, and both blocks of compatibility ideographs.
IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def kind(character: str) -> int:
    """LETTER (all that is none of the others), SPACE, CONTROL, PUNCTUATION (with all of ASCII that is no letter) or MARK."""
    if character in "\t\n\r":
        return SPACE
    category = unicodedata.category(character)
    if character == "\ufffd" or category in ("Cc", "Cf", "Co", "Cs"):
        return CONTROL
    if category[0] == "Z":
        return SPACE
    if category[0] == "P" or ("!" <= character <= "~" and not character.isalnum()):
        return PUNCTUATION
    return MARK if category == "Mn" else LETTER


def without_marks(character: str) -> str:
    """Its canonical decomposition but for nonspacing marks: "é" is "e", U+0301 is nothing, "각" is its three letters."""
    return "".join(c for c in unicodedata.normalize("NFD", character) if kind(c) != MARK)


def is_ideograph(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in IDEOGRAPHS)


def lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """How much is kept of two texts of so many pieces: the longer one is cut first.

    >>> lengths(3, 20, 10), lengths(20, 30, 11), lengths(4, 5, 9)
    ((3, 7), (5, 6), (4, 5))
    """
    if first + second <= room:
        return first, second
    short = min(first, second, room // 2)
    return (short, room - short) if first <= second else (room - short, short)


@dataclass(frozen=True)
class WordPiece:
    """`vocabulary`: number of each piece. Lower case, without accents, ideographs words of their own: each as it says."""

    vocabulary: Mapping[str, int]
    lowercase: bool = True
    strip_accents: bool = True
    cjk: bool = True

    def words(self, text: str) -> list[str]:
        """The words of a text, each mark of punctuation one of its own.

        >>> WordPiece({}).words("Élan,  vital! 東京")
        ['elan', ',', 'vital', '!', '東', '京']
        """
        made: list[str] = []
        for character in text:
            found = kind(character)
            if found == CONTROL:
                continue
            if found == SPACE:
                made.append(" ")
                continue
            plain = without_marks(character) if self.strip_accents else character
            if self.lowercase:
                plain = "".join(c.lower() for c in plain)
            plain = "".join(f" {c} " if kind(c) == PUNCTUATION else c for c in plain)
            made.append(f" {plain} " if self.cjk and is_ideograph(character) else plain)
        return "".join(made).split()

    def pieces(self, word: str) -> list[int]:
        """The longest piece that begins the word, then the longest that goes on; all of it unknown where one is not found."""
        found: list[int] = []
        start = 0
        while start < len(word) <= LONGEST:
            before = INSIDE if start else ""
            for end in range(len(word), start, -1):
                number = self.vocabulary.get(before + word[start:end])
                if number is not None:
                    found.append(number)
                    start = end
                    break
            else:
                return [self.vocabulary[UNKNOWN]]
        return found or [self.vocabulary[UNKNOWN]]

    def tokens(self, text: str) -> list[int]:
        return [number for word in self.words(text) for number in self.pieces(word)]

    def encode(self, text: str, pair: str | None, most: int) -> tuple[list[int], list[int]]:
        """(numbers, types), at most `most` of them: [CLS] text [SEP] of type 0, then, where there is a pair, pair [SEP] of type 1.

        `most` has room for those marks.
        """
        first, last = self.vocabulary[FIRST], self.vocabulary[LAST]
        here = self.tokens(text)
        if pair is None:
            ids = [first, *here[: most - 2], last]
            return ids, [0] * len(ids)
        there = self.tokens(pair)
        kept, behind = lengths(len(here), len(there), most - 3)
        ids = [first, *here[:kept], last, *there[:behind], last]
        return ids, [0] * (kept + 2) + [1] * (behind + 1)
