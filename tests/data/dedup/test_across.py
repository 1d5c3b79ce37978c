"""Documents of one corpus that are like documents of another: direct matches only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.dedup.across import find_across
from danlu.data.dedup.bands import band_keys
from danlu.data.dedup.clusters import agreements_for
from tests.data.dedup.signatures import planted, some_keys


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), mine=st.integers(0, 40), theirs=st.integers(0, 40))
def test_whoever_is_like_one_of_the_others_is_found(
    tmp_path_factory: pytest.TempPathFactory, seed: int, mine: int, theirs: int
) -> None:
    rows, keys = planted(mine + theirs, seed, share=0.7), some_keys(mine + theirs, seed)
    corpus, others = rows[:mine], rows[mine:]
    work = tmp_path_factory.mktemp("work")
    found = find_across([corpus], keys[:mine], [others], keys[mine:], work, threshold=0.6)
    bands = band_keys(rows, range(32))
    alike = {
        i
        for i in range(mine)
        for j in range(mine, mine + theirs)
        if (bands[:, i] == bands[:, j]).any() and (rows[i] == rows[j]).sum() >= agreements_for(0.6)
    }
    assert set(found.documents.tolist()) == alike and len(found.documents) == len(alike)
    for i, j, similarity in zip(found.documents, found.others, found.similarity, strict=True):
        assert similarity == (corpus[i] == others[j]).mean() >= 0.6


def test_a_document_like_a_match_is_no_match_itself(tmp_path: Path) -> None:
    """held out - copy - copy of the copy: the last one differs too much from what is held out."""
    first = planted(1, 1, share=0)[0]
    second, third = first.copy(), first.copy()
    second[np.arange(0, 128, 4)] ^= 1  # each band but agreement 96 of 128
    second[:4] = first[:4]  # one band in common
    third[:] = second
    third[np.arange(1, 128, 3)] ^= 1
    third[4:8] = second[4:8]
    corpus = np.stack([third, second])
    found = find_across([corpus], some_keys(2), [first[None]], some_keys(1, 9), tmp_path)
    assert found.documents.tolist() == [1] and found.others.tolist() == [0]
