"""The one text segmenter: Chinese and English as equals.

Every place that counts, compares or cuts text (filters, near-duplicates, decontamination, metrics) does it in
*units*, and gets them here. A unit is

- one Han character, one kana, one Hangul syllable: scripts that put no spaces between words, or
- a run of other letters and digits: a word of English, an identifier, a number.

Punctuation and spaces are no units. So nothing above this file splits on spaces, and a page of Chinese has
about as many units as it has characters instead of one enormous "word".

>>> units("danlu 是一座丹炉, v2!")
['danlu', '是', '一', '座', '丹', '炉', 'v2']
"""

from __future__ import annotations

import re

# Ranges of scripts that are written without spaces (Unicode 15, blocks). Han first: it is the common one.
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
KANA = "\u3040-\u30ff\u31f0-\u31ff"
HANGUL = "\uac00-\ud7af"
_UNSPACED = HAN + KANA + HANGUL

_UNIT = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
_HAN = re.compile(f"[{HAN}]")


def units(text: str) -> list[str]:
    """The units of `text` in order, as written (no case folding)."""
    return _UNIT.findall(text)


def shingles(text: str, n: int) -> list[str]:
    """Runs of `n` neighbouring units, lower-cased, joined by a space.

    A text of fewer than `n` units gives one shingle of all of them, and a text without units gives none:
    callers must have a branch for the empty list.

    >>> shingles("白日依山尽", 4)
    ['白 日 依 山', '日 依 山 尽']
    >>> shingles("Hello", 4)
    ['hello']
    """
    parts = units(text.lower())
    if not parts:
        return []
    if len(parts) <= n:
        return [" ".join(parts)]
    return [" ".join(parts[i : i + n]) for i in range(len(parts) - n + 1)]


def is_han(character: str) -> bool:
    """True for one Han character (CJK ideograph)."""
    return _HAN.match(character) is not None


def count_han(text: str) -> int:
    """How many Han characters `text` holds."""
    return len(_HAN.findall(text))
