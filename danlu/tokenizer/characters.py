r"""The table of characters behind the compiled pre-tokenizers: `cpp/characters.h`, written by this file.

    python -m danlu.tokenizer.characters > danlu/tokenizer/cpp/characters.h

A pre-tokenizer's pattern speaks of classes (`\p{L}`, `\s`, `\p{Han}`). What belongs to them changes with Unicode, and
the `tokenizers` library carries a Unicode of its own: version 0.20 that of 2021, 0.23 a later one. The ids of a text
must not depend on who cuts it, so the classes are asked of the library itself, one code point after the other, and
what is not the same in every version of it gets a bit of its own:

| bit | name     | who                                                                                     |
|-----|----------|-----------------------------------------------------------------------------------------|
| 1   | LETTER   | `\p{L}`                                                                                 |
| 2   | MARK     | `\p{M}`                                                                                 |
| 4   | NUMBER   | `\p{N}`                                                                                 |
| 8   | SPACE    | `\s`                                                                                    |
| 16  | HAN      | `\p{Han}`                                                                               |
| 32  | UNSPACED | kana, Thai, Lao, Khmer, Myanmar                                                         |
| 64  | RECENT   | not in Unicode 14, so no two versions need agree: a text with one goes to the library   |
| 128 | COMPOSES | form NFC may change it or what is beside it: the same, where a tokenizer normalises     |

Versions 0.20.0 and 0.23.3 give the same classes for all that is not RECENT (both were asked), and a test asks the
installed one.
"""

from __future__ import annotations

import unicodedata

import numpy as np

LETTER, MARK, NUMBER, SPACE, HAN, UNSPACED, RECENT, COMPOSES = (1 << bit for bit in range(8))
PATTERNS = {
    LETTER: r"\p{L}",
    MARK: r"\p{M}",
    NUMBER: r"\p{N}",
    SPACE: r"\s",
    HAN: r"\p{Han}",
    UNSPACED: r"[\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]",
}
N_CODES = 0x110000
UNICODE = "14.0.0"  # of Python 3.11; a later Python knows more and would mark less as RECENT


def members_in_library(text: str) -> dict[int, set[str]]:
    """For each bit of `PATTERNS` the characters of `text` that the installed `tokenizers` takes for its members."""
    from tokenizers import Regex, pre_tokenizers

    found: dict[int, set[str]] = {}
    for bit, pattern in PATTERNS.items():
        others = pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(text)
        found[bit] = set(text).difference(*(piece for piece, _ in others))
    return found


def classes_of_library() -> np.ndarray:
    """The bits of `PATTERNS` for all code points, uint8 [0x110000]."""
    table = np.zeros(N_CODES, np.uint8)
    for start in range(0, N_CODES, 0x1000):
        text = "".join(chr(code) for code in range(start, start + 0x1000) if not 0xD800 <= code < 0xE000)
        for bit, members in members_in_library(text).items() if text else ():
            table[[ord(character) for character in members]] |= bit
    return table


def recent_and_composing() -> np.ndarray:
    """The two bits that come from Python's own Unicode, uint8 [0x110000]. Needs the Unicode of `UNICODE`."""
    assert unicodedata.unidata_version == UNICODE, f"Unicode {UNICODE} is needed, Python has another"
    table = np.zeros(N_CODES, np.uint8)
    for code in range(N_CODES):
        character = chr(code)
        if unicodedata.category(character) == "Cn":
            table[code] |= RECENT
        elif not unicodedata.is_normalized("NFC", character) or unicodedata.combining(character):
            table[code] |= COMPOSES
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            table[int(parts[1], 16)] |= COMPOSES  # it may join what stands before it
    table[0x1161:0x1176] |= COMPOSES  # so do the vowels and
    table[0x11A8:0x11C3] |= COMPOSES  # finals of Hangul
    return table


def header(table: np.ndarray) -> str:
    """The C++ text: for each run of equal classes where it starts and what it is."""
    starts = np.flatnonzero(np.diff(table, prepend=table[0] ^ 1))
    cells = [f"{{{start:#x},{table[start]}}}," for start in starts]
    lines = ["".join(cells[i : i + 10]) for i in range(0, len(cells), 10)]
    return (
        "// Classes of code points, {where a run starts, its bits}. Written by danlu/tokenizer/characters.py.\n"
        "#pragma once\n#include <cstdint>\n\nnamespace danlu {\n"
        "struct Run { uint32_t start; uint8_t bits; };\n"
        f"inline constexpr Run RUNS[] = {{\n{chr(10).join(lines)}\n}};\n}}\n"
    )


def table() -> np.ndarray:
    """All bits together, uint8 [0x110000]: a RECENT code point has no other bit."""
    own = recent_and_composing()
    return np.where(own & RECENT, np.uint8(RECENT), own | classes_of_library())


if __name__ == "__main__":
    print(header(table()), end="")
