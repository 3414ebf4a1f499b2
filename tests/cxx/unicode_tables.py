"""Writes cmake/src/unicode_tables.hpp: what edgekd/wordpiece.py asks of Python's unicodedata, as tables for C++.

    python tests/cxx/unicode_tables.py

with a Python of the wanted version of Unicode (3.11: 14.0.0). Another one may cut words otherwise at characters that newer
versions added; hardly a vocabulary has any of them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgekd.wordpiece import IDEOGRAPHS, MARK, kind, without_marks

FILE = Path(__file__).resolve().parent.parent.parent / "cmake" / "src" / "unicode_tables.hpp"
CHARACTERS = range(0x110000)
SYLLABLES = range(0xAC00, 0xD7A4)  # Hangul, composed by arithmetic
WIDTH = 128


def kinds() -> Iterator[str]:
    """Where another kind begins: the character's number times 8, and the kind."""
    last = 0
    for number in CHARACTERS:
        found = kind(chr(number))
        if found != last:
            yield f"{number << 3 | found:#x}"
            last = found


def decomposed() -> dict[int, str]:
    """What is left of each character whose canonical decomposition, without marks, is another; not of Hangul, and not of marks."""
    found = {}
    for number in CHARACTERS:
        character = chr(number)
        if unicodedata.decomposition(character)[:1] not in ("", "<") and kind(character) != MARK:
            found[number] = without_marks(character)
    assert all(parts and len(parts) <= 3 for parts in found.values())
    assert all(unicodedata.normalize("NFD", chr(n)) != chr(n) for n in SYLLABLES)
    return {number: parts for number, parts in found.items() if parts != chr(number)}


def bases(found: dict[int, str]) -> Iterator[str]:
    """Where another base begins: {character, its base, or 0 for itself}."""
    last = 0
    for number in sorted({n + step for n in found for step in (0, 1)}):
        base = ord(found[number]) if len(found.get(number, "")) == 1 else 0
        if base != last:
            yield f"{{{number:#x}, {base:#x}}}"
            last = base


def lowered() -> Iterator[str]:
    """{first, last, step, shift}: of each step-th character between, the lower case is so much further."""
    rows: list[list[int]] = []
    for number in CHARACTERS:
        lower = chr(number).lower()
        if lower == chr(number):
            continue
        if len(lower) > 1:
            assert (number, lower) == (0x130, "i\u0307")  # unicode.cpp has that one
            continue
        shift = ord(lower) - number
        if rows and rows[-1][3] == shift and number - rows[-1][1] in ((1, 2) if rows[-1][2] == 0 else (rows[-1][2],)):
            rows[-1][2] = number - rows[-1][1]
            rows[-1][1] = number
        else:
            rows.append([number, number, 0, shift])
    for first, last, step, shift in rows:
        yield f"{{{first:#x}, {last:#x}, {step or 1}, {shift}}}"


def table(about: str, declared: str, rows: Iterable[str]) -> str:
    lines = [""]
    for row in rows:
        if len(lines[-1]) + len(row) + 2 > WIDTH:
            lines.append("")
        lines[-1] += f"{row}, " if lines[-1] else f"    {row}, "
    body = "\n".join(line.rstrip() for line in lines)
    return f"// {about}\n{declared} = {{\n{body}\n}};\n"


def text() -> str:
    found = decomposed()
    several = (
        f"{{{n:#x}, {{{', '.join(f'{ord(c):#x}' for c in parts)}}}}}" for n, parts in found.items() if len(parts) > 1
    )
    tables = [
        table(
            "Where another kind begins: the character times 8, and the Kind.",
            "constexpr std::uint32_t kKinds[]",
            kinds(),
        ),
        table(
            "Where another base begins, what is left of a character's decomposition without marks; 0: itself.",
            "constexpr Base kBases[]",
            bases(found),
        ),
        table(
            "Those of which two characters are left, or three.",
            "constexpr Several kSeveral[]",
            several,
        ),
        table(
            "Lower case: of each step-th character from first to last, so much further.",
            "constexpr Lower kLower[]",
            lowered(),
        ),
        table(
            "CJK ideographs.",
            "constexpr Range kIdeographs[]",
            (f"{{{first:#x}, {last:#x}}}" for first, last in IDEOGRAPHS),
        ),
    ]
    return (
        f"// Written by tests/cxx/unicode_tables.py: Unicode {unicodedata.unidata_version}. Not to be edited.\n"
        "#pragma once\n\n#include <cstdint>\n\nnamespace edgekd::core::unicode_tables {\n\n"
        "struct Base {\n    char32_t first, base;\n};\n"
        "struct Several {\n    char32_t first, parts[3];\n};\n"
        "struct Lower {\n    char32_t first, last;\n    std::uint32_t step;\n    std::int32_t shift;\n};\n"
        "struct Range {\n    char32_t first, last;\n};\n\n"
        + "\n".join(tables)
        + "\n}  // namespace edgekd::core::unicode_tables\n"
    )


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
