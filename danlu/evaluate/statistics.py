"""Intervals: how far can chance move a number that was measured on n cases.

    share of successes     Wilson's interval (Wilson 1927): honest near 0 and 1 and for small n, where the textbook
                           p +- 1.96 sqrt(p (1 - p) / n) claims certainty at 0 of 20
    ratio of two sums      bootstrap over documents: bits per byte is sum(bits) / sum(bytes), and tokens of one
                           document are not independent, so documents are drawn and not tokens

Both are 95 % intervals.

Worked example, 8 of 10:  centre (0.8 + 1.92/10) / (1 + 3.84/10) = 0.717, half width 0.227: from 0.490 to 0.943.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959964  # 97.5 % of a normal distribution lie below it


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share. With no cases nothing is known: (0, 1)."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    scale = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / scale
    half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_ratio(
    numerators: Sequence[float], denominators: Sequence[float], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of sum(numerators) / sum(denominators), documents drawn with replacement.

    One document gives an interval of no width: there is nothing to draw from, and `n` beside it says so.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if not len(top) or bottom.sum() <= 0:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    ratios = np.empty(draws)
    for draw in range(draws):
        chosen = generator.integers(len(top), size=len(top))
        ratios[draw] = top[chosen].sum() / max(bottom[chosen].sum(), 1e-12)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def share(successes: int, n: int) -> dict[str, float | int | list[float]]:
    """A share as every report writes it: value, interval, n."""
    return {"value": successes / n if n else 0.0, "interval": list(wilson(successes, n)), "n": n}
