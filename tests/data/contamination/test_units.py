from __future__ import annotations

import unicodedata

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.text import units
from danlu.data.contamination.units import GAP, GAP_HASH, find_units


def _words(text: str) -> list[str]:
    found = find_units(text)
    return [text[a:b] for a, b in zip(found.starts, found.ends, strict=True)]


@given(st.text())
def test_units_are_those_of_the_segmenter(text: str) -> None:
    assigned = "".join(c for c in text if unicodedata.category(c)[0] not in "C" and c < "\U000323b0")
    plain = "".join(c for c in assigned if len(unicodedata.normalize("NFKC", c)) == 1)
    folded = unicodedata.normalize("NFKC", "x").join([])  # the segmenter sees text as written, so only its own forms
    assert folded == ""
    written = "".join(c for c in plain if unicodedata.normalize("NFKC", c) == c)
    assert _words(written) == units(written)


def test_case_width_and_punctuation_do_not_count() -> None:
    one, two = find_units("ＧＰＴ４，丹炉！"), find_units("gpt4 丹...炉")
    assert one.hashes.tolist() == two.hashes.tolist() and len(one.hashes) == 3
    assert find_units("ab c").hashes.tolist() != find_units("a bc").hashes.tolist()
    assert find_units("İstanbul ﬁne").hashes.shape == (2,)


def test_a_gap_is_a_unit_of_items_only() -> None:
    assert find_units(f"a {GAP} b", gaps=True).hashes[1] == GAP_HASH
    assert len(find_units(f"a {GAP} b").hashes) == 2


def test_long_and_empty_texts() -> None:
    assert len(find_units("").hashes) == len(find_units("，。 \n").hashes) == 0
    assert len(find_units("x" * 100_000).hashes) == 1
    assert np.array_equal(find_units("\ud800丹\ud800").starts, [1])
