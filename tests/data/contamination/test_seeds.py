from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.contamination import seeds
from danlu.data.contamination.seeds import WIDTH, Seeds, seed_keys
from danlu.data.contamination.units import find_units

ITEM = "白日依山尽，黄河入海流。The quick brown fox jumps over the lazy dog 42 times ＡＢＣ"


def test_a_seed_is_found_where_it_is() -> None:
    keys = seed_keys(find_units("quick brown fox jumps").hashes)
    hits = Seeds(keys).find(["nothing here at all", "the QUICK,brown fox--jumps high", "quick brown fox", ""])
    assert [column.tolist() for column in hits] == [[1], [1], [0]]


# Pieces of the item, so that seeds are hit, and everything else that a text may hold.
_TEXT = st.lists(st.one_of(st.sampled_from([ITEM, ITEM[:9], ITEM[7:60], " ", "\ufffc", "ﬁ", "\ud800"]), st.text())).map(
    "".join
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_TEXT, max_size=4))
def test_compiled_code_and_numpy_find_the_same(texts: list[str]) -> None:
    if seeds._library() is None:
        pytest.skip("there is no compiler")
    index = Seeds(np.unique(seed_keys(find_units(ITEM).hashes)))
    for native, numpy in zip(index.find(texts), index.find_in_numpy(texts), strict=True):
        assert native.tolist() == numpy.tolist()


def test_many_hits_do_not_overflow() -> None:
    text = ITEM * 3_000
    index = Seeds(np.unique(seed_keys(find_units(ITEM).hashes)))
    assert len(index.find([text]).text) >= 3_000 * (len(find_units(ITEM).hashes) - WIDTH + 1)
