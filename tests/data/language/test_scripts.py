from __future__ import annotations

import unicodedata

import pytest

from danlu.data.language import scripts
from danlu.data.language.scripts import count_scripts


def test_counts() -> None:
    found = count_scripts("汉字漢 kana カな 한 abc é Я ω 12.")
    counts = found.counts
    assert (counts[scripts.HANS], counts[scripts.HANT], counts[scripts.HAN], found.n_han) == (1, 1, 1, 3)
    assert (counts[scripts.KANA], counts[scripts.HANGUL], counts[scripts.ASCII], counts[scripts.LATIN]) == (2, 1, 7, 1)
    assert (counts[scripts.CYRILLIC], counts[scripts.GREEK], found.n_letters) == (1, 1, 16)


def test_every_letter_of_the_first_plane_has_a_script() -> None:
    table = scripts._table()
    lost = [
        chr(code)
        for code in range(0x41, 0x10000)
        if not 0xD800 <= code < 0xE000
        and table[code] == scripts.NONE
        and unicodedata.category(chr(code)) in ("Lu", "Ll", "Lo")
    ]
    assert len(lost) < 400, lost[:50]  # rare ones: Coptic in Greek's block, letters of phonetics


def test_pairs_are_those_of_opencc() -> None:
    opencc = pytest.importorskip("opencc")
    simplify, restore = opencc.OpenCC("t2s").convert, opencc.OpenCC("s2t").convert
    pairs = [(a, b) for a, b in zip(scripts._PAIRS[::2], scripts._PAIRS[1::2], strict=True) if a != b]
    assert len(pairs) > 350
    for simplified, traditional in pairs:
        assert simplify(traditional) == simplified, (simplified, traditional)
        assert restore(simplified) != simplified, simplified  # no character of traditional text, too
