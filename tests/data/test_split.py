from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.dedup.minhash import clusters
from danlu.data.split import cut, draw, hold_out, joined


def _ids(n: int) -> list[str]:
    return [f"{i:05d}" for i in range(n)]


def test_the_share_is_of_bytes_and_nearly_met() -> None:
    n = 2_000
    sizes = np.random.default_rng(0).integers(100, 1_000, n)
    held_out = hold_out(_ids(n), np.arange(n), sizes, [0] * n, 0.05)
    assert 0.05 <= sizes[held_out].sum() / sizes.sum() < 0.052


def test_groups_stay_together_and_a_giant_one_stays_in_training() -> None:
    n = 300
    groups = np.array([0 if i < 150 else i - i % 3 for i in range(n)])
    held_out = hold_out(_ids(n), groups, np.full(n, 10), [0] * n, 0.1)
    assert held_out.any() and not held_out[:150].any()
    for group in np.unique(groups):
        assert len(set(held_out[groups == group].tolist())) == 1


def test_something_is_held_out_of_little() -> None:
    assert hold_out(_ids(2), np.arange(2), np.array([5, 5]), [0, 0], 0.02).sum() == 1
    book = hold_out(_ids(4), np.zeros(4, dtype=np.int64), np.full(4, 9), [2, 4, 1, 3], 0.02)
    assert book.tolist() == [False, True, False, False]  # the last part
    assert not hold_out(_ids(1), np.zeros(1, dtype=np.int64), np.array([9]), [0], 0.02).any()
    assert not hold_out(_ids(9), np.arange(9), np.full(9, 9), [0] * 9, 0.0).any()


def test_a_draw_is_fixed_and_even() -> None:
    draws = np.array([draw(identity) for identity in _ids(4_000)])
    assert draw("00000") == draws[0] and draw("00000", "sample") != draws[0]
    counts, _ = np.histogram(draws, bins=10, range=(0, 1))
    assert counts.min() > 320


def test_cuts_are_made_before_unindented_lines() -> None:
    source = "import os\n\n\ndef one():\n    a = 1\n\n    return a\n\n\ndef two():\n    return 2\n"
    assert cut(source, len(source)) == [source]
    assert cut(source, 60) == [source[: source.index("def two")], source[source.index("def two") :]]


@given(st.text(alphabet="ab \n中", max_size=400), st.integers(4, 60))
def test_parts_are_short_enough_and_join_to_the_text(text: str, limit: int) -> None:
    parts = cut(text, limit)
    assert "".join(parts) == text
    assert all(0 < len(part) <= limit for part in parts)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=40))
def test_joined_groups_are_those_of_all_pairs(rows: list[tuple[int, int, int]]) -> None:
    """(alike, part, origin) of each document; the oracle unites pair by pair."""
    alike, parts, origins = (np.array(column) for column in zip(*rows, strict=True))
    pairs = [
        (i, j)
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
        if alike[i] == alike[j] or (parts[i] and parts[j] and origins[i] == origins[j])
    ]
    groups = joined(alike.astype(np.uint32), parts.astype(np.int32), origins[parts > 0].astype(np.uint64))
    assert groups.tolist() == clusters(len(rows), pairs).tolist()
