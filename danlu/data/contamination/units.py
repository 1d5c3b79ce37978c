"""Units of a text as 64-bit hashes: what two texts must share to be called copies.

A unit is what `danlu.core.text` says (one Han character, one run of other letters and digits), after folding each
character to its compatibility form and lower case where that is a single character: "ＧＰＴ", "GPT" and "gpt" are one
unit, and so are "①" and "1". Punctuation and spaces are no units, so they may change freely. The hash of a unit of
characters c_0 .. c_(l-1) is

    Σ c_j · Q^(l-1-j)   modulo 2^64, mixed            over its first 64 characters at most

a sum of powers, because that can be had for all units of a text at once in numpy, and character by character in C++:
`seeds.cpp` gives the same numbers. Characters are looked up in two tables made here from Python's own Unicode data.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from danlu.core.text import HAN, HANGUL, KANA

CODE_POINTS = 0x40000  # of the tables; above lie no letters
GAP = "\ufffc"  # in an item: anything may stand here (the variables of a template)
GAP_HASH = np.uint64(0)  # the hash of that unit; no text is given it
LONGEST = 64  # characters of a unit that are hashed
FACTOR = np.uint64(0x9E3779B97F4A7C15)
MIXER = np.uint64(0xC2B2AE3D27D4EB4F)

_SINGLE = re.compile(f"[{HAN}{KANA}{HANGUL}]")
_WORD = re.compile(r"\w")


class Units(NamedTuple):
    """The units of one text in order: hashes uint64 [U], and where they are in it, in characters, int32 [U]."""

    hashes: NDArray[np.uint64]
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]


@functools.cache
def tables() -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """(folded, kinds) by code point: uint32 and uint8 [CODE_POINTS]; kinds 0 none, 1 part of a run, 2 a unit alone."""
    folded = np.arange(CODE_POINTS, dtype=np.uint32)
    kinds = np.zeros(CODE_POINTS, dtype=np.uint8)
    for code in range(CODE_POINTS):
        character = chr(code)
        if code >= 0x323B0 or unicodedata.category(character)[0] not in "LNMPSZ":
            continue
        if code > 0x7F or character.isupper():
            form = unicodedata.normalize("NFKC", character) if not 0x4E00 <= code < 0xA000 else character
            form = (form if len(form) == 1 else character).lower()
            if len(form) == 1:
                folded[code] = ord(form)
                character = form
        kinds[code] = 2 if _SINGLE.match(character) else 1 if _WORD.match(character) else 0
    return folded, kinds


def find_units(text: str, gaps: bool = False) -> Units:
    """The units of `text`. In an item (`gaps`) GAP is a unit of hash `GAP_HASH`; elsewhere it is no unit."""
    folded_by, kind_by = tables()
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    safe = np.minimum(codes, CODE_POINTS - 1)
    folded, kinds = folded_by[safe], kind_by[safe]  # [N]
    is_gap = (codes == ord(GAP)) & gaps
    kinds = np.where(is_gap, np.uint8(2), kinds)
    inside = kinds > 0
    before = np.concatenate([np.zeros(1, np.uint8), kinds[:-1]]) if len(kinds) else kinds
    after = np.concatenate([kinds[1:], np.zeros(1, np.uint8)]) if len(kinds) else kinds
    starts = np.flatnonzero(inside & ((kinds == 2) | (before != 1)))
    ends = np.flatnonzero(inside & ((kinds == 2) | (after != 1))) + 1
    hashes = np.zeros(len(starts), dtype=np.uint64)
    lengths = np.minimum(ends - starts, LONGEST)
    active = np.arange(len(starts))
    for place in range(int(lengths.max(initial=0))):
        active = active[lengths[active] > place]
        hashes[active] = hashes[active] * FACTOR + folded[starts[active] + place]
    hashes ^= hashes >> np.uint64(32)
    hashes *= MIXER
    hashes[is_gap[starts]] = GAP_HASH
    return Units(hashes, starts.astype(np.int32), ends.astype(np.int32))
