"""How much of each group: from weights, sizes and caps to integers that add up exactly.

With weights w_g (all 1 where none are given) and sizes s_g, the shares of a mixture are

    p_g = w_g · s_g^(1/T) / Σ w · s^(1/T)        T = 1 natural, T > 1 lifts small groups, T -> ∞ equal parts
    p_g = w_g / Σ w                              when weights are given without a temperature: the user means shares

A group may be read at most `max_epochs` times: beyond some four times, repeated text teaches little (Muennighoff et al.
2023). What a capped group cannot give is shared out among the others in proportion, and so on until nothing is left to
share. The amounts are integers (largest remainder) whose sum is the budget, or all there is if the caps allow less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import UserError, suggest


def weights_of(names: Sequence[str], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """float64 [G]: the weight of each group; 1 everywhere when `weights` is empty.

    A key is a group's name or a pattern ("web/*", "*/zh"); of several that fit, the one with most literal characters
    counts. A group that no key fits has weight 0. Raises UserError for a key that fits no group, and when all is 0.
    """
    if not weights:
        return np.ones(len(names))
    for key in weights:
        if not any(fnmatchcase(name, key) for name in names):
            raise UserError(f'weights: no group is called "{key}"', suggest(key, names))
    found = []
    for name in names:
        fitting = sorted((k for k in weights if fnmatchcase(name, k)), key=lambda k: (-len(k.replace("*", "")), k))
        found.append(weights[fitting[0]] if fitting else 0.0)
    if not any(found):
        raise UserError("weights: every group has weight 0", "give at least one a positive weight")
    return np.array(found, dtype=np.float64)


def shares_of(
    weights: NDArray[np.float64], sizes: NDArray[np.int64], temperature: float | None, weighted: bool
) -> NDArray[np.float64]:
    """float64 [G], sum 1: the formula above. Empty groups have share 0. Raises UserError when all of them are empty."""
    raw = np.where(sizes > 0, weights, 0.0)
    if temperature is not None or not weighted:
        largest = max(int(sizes.max(initial=0)), 1)  # sizes as shares of the largest, so that no power overflows
        raw = raw * (sizes / largest) ** (1.0 / (temperature or 1.0))
    if not raw.sum() > 0:
        raise UserError("there is nothing to mix", "the groups with a positive weight are empty")
    return raw / raw.sum()


def natural_budget(shares: NDArray[np.float64], caps: NDArray[np.int64]) -> int:
    """The largest amount that keeps the shares exactly: where the first group reaches its cap."""
    used = shares > 0
    return int(np.floor((caps[used] / shares[used]).min() * (1 + 1e-12)))


def allocate(shares: NDArray[np.float64], caps: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """int64 [G] with 0 <= amount <= cap and sum min(budget, Σ caps of groups with a share).

    >>> allocate(np.array([0.5, 0.3, 0.2]), np.array([10, 100, 100]), 100).tolist()
    [10, 54, 36]
    """
    amounts = np.zeros(len(shares), dtype=np.int64)
    open_ = shares > 0
    left = min(budget, sum(int(c) for c in caps[open_]))
    while left and open_.any():
        wanted = _whole(np.where(open_, shares, 0.0), left)
        over = open_ & (wanted >= caps)
        if not over.any():
            return amounts + wanted
        amounts[over] = caps[over]
        left -= int(caps[over].sum())
        open_ &= ~over
    return amounts


def _whole(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Integers in proportion to `shares` that sum to `total`: floors, then one more for the largest remainders."""
    exact = shares / shares.sum() * total
    whole = np.floor(exact).astype(np.int64)
    missing = total - int(whole.sum())
    by_remainder = np.lexsort((np.arange(len(shares)), whole - exact))  # ties: the earlier group
    by_remainder = by_remainder[shares[by_remainder] > 0]
    for i in range(abs(missing)):
        whole[by_remainder[i % len(by_remainder)]] += np.sign(missing)
    return whole
