"""Hashes of runs depend on the run alone, and winnowing keeps one of every window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.dedup.native import library
from danlu.data.dedup.windows import sliding, window_hashes, winnow


@given(seed=st.integers(0, 99), count=st.integers(0, 300), length=st.integers(1, 130), high=st.sampled_from([2, 2**63]))
def test_equal_runs_have_equal_hashes_and_others_have_not(seed: int, count: int, length: int, high: int) -> None:
    symbols = np.random.default_rng(seed).integers(0, high, count).astype(np.uint64)
    hashes = window_hashes(symbols, length, seed)
    runs = [symbols[i : i + length].tobytes() for i in range(count - length + 1)]
    assert len(hashes) == len(runs) and len(set(hashes.tolist())) == len(set(runs))
    assert (hashes == window_hashes(symbols, length, seed, compiled=False)).all()
    if runs:
        assert window_hashes(symbols[-length:], length, seed)[0] == hashes[-1]


def test_blocks_do_not_show() -> None:
    if library() is None:
        pytest.skip("no compiler")
    symbols = np.random.default_rng(0).integers(0, 2**63, 20_000).astype(np.uint64)
    for length in (1, 100, 5000):
        assert (window_hashes(symbols, length) == window_hashes(symbols, length, compiled=False)).all()


def test_the_sequence_of_thue_and_morse_has_no_collisions() -> None:
    """It makes polynomials modulo 2^64 collide for every base."""
    bits = np.array([n.bit_count() & 1 for n in range(1 << 13)], dtype=np.uint64)
    pair = window_hashes(bits, 1 << 12)[0], window_hashes(1 - bits, 1 << 12)[0]
    assert pair[0] != pair[1]


@settings(max_examples=100)
@given(seed=st.integers(0, 99), count=st.integers(1, 120), window=st.integers(1, 30), high=st.sampled_from([3, 2**62]))
def test_winnowing_by_hand(seed: int, count: int, window: int, high: int) -> None:
    random = np.random.default_rng(seed)
    hashes = random.integers(1, high, count).astype(np.uint64)
    owner = np.repeat(np.arange(count), random.integers(1, 60, count))[:count]  # documents, one after the other
    valid = owner[: max(count - window + 1, 0)] == owner[window - 1 :]
    expected = set()
    for begin in np.flatnonzero(valid):
        piece = hashes[begin : begin + window]
        expected |= {int(begin + k) for k in np.flatnonzero(piece == piece.min())}
    for compiled in (True, False):
        assert set(np.flatnonzero(winnow(hashes, window, valid, compiled)).tolist()) == expected


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 40))
def test_sliding_minimum(values: list[int], window: int) -> None:
    window = min(window, len(values))
    found = sliding(np.minimum, np.array(values, dtype=np.uint64), window)
    assert found.tolist() == [min(values[i : i + window]) for i in range(len(values) - window + 1)]
