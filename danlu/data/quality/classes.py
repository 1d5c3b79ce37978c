"""What each of Unicode's 1,114,112 code points is to the data room, as one table.

Python and C++ must agree to the last character on what is a letter, a space, a Han character or a symbol. So there is
one definition, the patterns below, and the C++ knows nothing of Unicode: it is handed this table.

    flags   uint32 [0x110000]     one bit a property (FLAGS)
    lower   uint32 [0x110000]     the code point that str.lower makes of it

Characters with the same bits are one *class*; there are some thirty. The table is cut into pages of 256 and equal
pages are stored once, as Unicode's own tables are: all of the Han characters share one page, which stays in the cache.

Two of str.lower's answers are not one character for one: U+0130 becomes "i" and a combining dot, which no unit holds,
so it carries the flag `splits`; and capital sigma looks at its neighbours, which `danlu.data.scan` settles before.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from danlu.core.text import HAN, HANGUL, KANA

CODE_POINTS = 0x110000
PAGE = 256

_PUNCTUATION = re.escape("!\"#$%&'()*+,-./:;<=>?@[\\]^`{|}~") + "\u2010-\u2027\u2030-\u205e\u3000-\u303f\uff00-\uffef·"

# A line that is a sentence ends in one of these: the marks of C4 (. ! ? " '), and those of other scripts. The
# Chinese colon and semicolon are here because Chinese breaks a line after them where English would not.
TERMINAL = ".!?\"'" + "。！？…；：”’」』｡．؟۔।॥።။។"
SENTENCE_ENDS = ".!?。！？…｡؟۔।॥።។"
CLAUSE_ENDS = ",;:.!?，；：。！？"
# These end what they end whatever follows. The others do so only before a space, a closing mark or a character of a
# script without spaces: not in "3.14", "a.b" or "12:30".
WIDE_ENDS = "。！？…｡।॥።។，；："
CLOSERS = "\"'”’」』)]）】》"
BULLETS = "•-·●▪‣◦"

# Arrows, boxes, stars, pictographs: neither word, space, punctuation of any script, nor U+FFFD.
SYMBOLS = re.compile(rf"[^\w\s{_PUNCTUATION}\ufffd]+")

# name -> characters, or (for the large ones) a pattern. The order is the order of bits, as in `data/scan/cpp/text.h`.
FLAGS: dict[str, str | re.Pattern[str]] = {
    "word": re.compile(r"\w+"),
    "unspaced": re.compile(f"[{HAN}{KANA}{HANGUL}]+"),
    "space": re.compile(r"\s+"),
    "symbol": SYMBOLS,
    "alpha": "",  # str.isalpha
    "upper": "",  # str.lower changes it
    "splits": "\u0130",
    "han": re.compile(f"[{HAN}]+"),
    "terminal": TERMINAL,
    "bullet": BULLETS,
    "sentence": SENTENCE_ENDS,
    "wide": WIDE_ENDS,
    "clause": CLAUSE_ENDS,
    "closer": CLOSERS,
    "dot": ".",
    "ellipsis": "…",
    "hash": "#",
    "curly": "{",
    "replacement": "\ufffd",
    "newline": "\n",
}


@dataclass(frozen=True)
class Classes:
    """The table as the C++ reads it.

    page_of   uint16 [4352]       page of code points 256 i ... 256 i + 255
    classes   uint8 [P, 256]      class of a code point
    flags     uint32 [256]        bits of a class
    lower     uint32 [P, 256]     lower-cased code point, minus the code point (modulo 2^32)
    """

    page_of: NDArray[np.uint16]
    classes: NDArray[np.uint8]
    flags: NDArray[np.uint32]
    lower: NDArray[np.uint32]


def flag(name: str) -> int:
    return 1 << list(FLAGS).index(name)


@functools.cache
def table() -> Classes:
    """Built once a process, in some tenths of a second."""
    everything = "".join(map(chr, range(CODE_POINTS)))
    bits = np.zeros(CODE_POINTS, dtype=np.uint32)
    for name, characters in FLAGS.items():
        spans = characters.finditer(everything) if isinstance(characters, re.Pattern) else ()
        for found in spans:
            bits[found.start() : found.end()] |= np.uint32(flag(name))
        for character in "" if isinstance(characters, re.Pattern) else characters:
            bits[ord(character)] |= np.uint32(flag(name))
    for found in re.compile(r"[^\W\d_]+").finditer(everything):
        start, end = found.span()
        alpha = [character.isalpha() for character in found[0]] if not found[0].isalpha() else True
        bits[start:end] |= np.where(alpha, np.uint32(flag("alpha")), np.uint32(0))  # numerals such as "½" are none
    shift = np.zeros(CODE_POINTS, dtype=np.uint32)
    for start in range(0, CODE_POINTS, PAGE):
        page = everything[start : start + PAGE]
        if page.lower() == page:
            continue
        for code, character in enumerate(page, start):
            low = character.lower()
            if low != character:
                bits[code] |= flag("upper")
                shift[code] = (ord(low[0]) - code) & 0xFFFFFFFF
    numbers: dict[bytes, int] = {}  # a page's bytes -> its number
    both = np.concatenate([bits.reshape(-1, PAGE), shift.reshape(-1, PAGE)], axis=1)  # [4352, 512]
    page_of = np.array([numbers.setdefault(page.tobytes(), len(numbers)) for page in both], dtype=np.uint16)
    pages = np.frombuffer(b"".join(numbers), dtype=np.uint32).reshape(-1, 2 * PAGE)
    used, classes = np.unique(pages[:, :PAGE], return_inverse=True)
    assert len(used) < 256
    flags = np.zeros(256, dtype=np.uint32)
    flags[: len(used)] = used
    return Classes(page_of, classes.reshape(-1, PAGE).astype(np.uint8), flags, np.ascontiguousarray(pages[:, PAGE:]))
