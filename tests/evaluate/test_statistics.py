"""Intervals against numbers done by hand, and against what chance really does."""

from __future__ import annotations

import random

import pytest

from danlu.evaluate.statistics import bootstrap_ratio, share, wilson


def test_eight_of_ten() -> None:
    assert wilson(8, 10) == (pytest.approx(0.490, abs=1e-3), pytest.approx(0.943, abs=1e-3))


def test_none_of_twenty_is_not_certainty() -> None:
    low, high = wilson(0, 20)
    assert low == 0 and high == pytest.approx(0.161, abs=1e-3)
    assert wilson(0, 0) == (0, 1)


def test_wilson_covers() -> None:
    generator = random.Random(0)
    covered = 0
    for _ in range(500):
        low, high = wilson(sum(generator.random() < 0.3 for _ in range(40)), 40)
        covered += low <= 0.3 <= high
    assert 0.92 <= covered / 500 <= 0.98


def test_bootstrap_holds_the_ratio_and_shrinks_with_n() -> None:
    generator = random.Random(0)
    sizes = [generator.randint(100, 1000) for _ in range(200)]
    bits = [size * generator.uniform(1.5, 2.5) for size in sizes]
    ratio = sum(bits) / sum(sizes)
    low, high = bootstrap_ratio(bits, sizes)
    assert low < ratio < high
    few_low, few_high = bootstrap_ratio(bits[:20], sizes[:20])
    assert few_high - few_low > high - low
    assert bootstrap_ratio(bits, sizes) == (low, high)  # a seed, not the clock


def test_share() -> None:
    assert share(1, 2)["value"] == 0.5 and share(0, 0)["n"] == 0
