"""Hashes of all runs of n symbols, and the few of them that stand for the rest.

By doubling: the hash of 2m symbols is a mixture of the hashes of its two halves,

    H(1, i) = s[i]     H(2m, i) = mix(H(m, i), H(m, i + m))     H(n, i) from the binary digits of n

so that n = 100 costs six doublings and two joins, whatever n symbols there are, and every step is the same operation
on a whole array. A rolling polynomial would need one step a symbol, in order, and polynomials modulo 2^64 collide on
texts as regular as the sequence of Thue and Morse; a mixture that is not linear does not.

Winnowing (Schleimer, Wilkerson and Aiken 2003): of every w neighbouring hashes the smallest is chosen. A choice
depends only on what is inside the w hashes, so two texts that share w + n - 1 symbols share a chosen hash, and about
2 / (w + 1) of all places are chosen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from danlu.data.dedup.native import address, library

_M0, _M1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_WORD = (1 << 64) - 1


def window_hashes(symbols: NDArray[np.uint64], length: int, seed: int = 0, compiled: bool = True) -> NDArray[np.uint64]:
    """uint64 [N] -> uint64 [max(N - length + 1, 0)]: the hash of each run of `length` symbols, by where it begins."""
    count = len(symbols) - length + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    loaded = library() if compiled else None
    if loaded is not None:
        symbols = np.ascontiguousarray(symbols)
        out = np.empty(count, dtype=np.uint64)
        loaded.dedup_windows(address(symbols), len(symbols), length, seed, address(out))
        return out
    power, size, done = symbols, 1, 0
    total: NDArray[np.uint64] | None = None
    while True:
        if length & size:
            part = power[done : done + count]
            total = part * _M1 + np.uint64(seed) if total is None else _mix(total, part, seed + done)
            done += size
        if done == length:
            assert total is not None
            return total
        power = _mix(power[:-size], power[size:], seed - size)
        size *= 2


def _mix(a: NDArray[np.uint64], b: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    mixed = (a ^ np.uint64(seed & _WORD)) * _M0
    mixed = (mixed ^ (mixed >> np.uint64(29))) + b
    mixed *= _M1
    return mixed ^ (mixed >> np.uint64(32))


def winnow(
    hashes: NDArray[np.uint64], window: int, valid: NDArray[np.bool_], compiled: bool = True
) -> NDArray[np.bool_]:
    """bool [N]: the smallest of every `window` neighbouring hashes, all of them where several are equal.

    valid  bool [N - window + 1]: windows that count, those that lie inside one document of at least `window` hashes
    """
    chosen = np.zeros(len(hashes), dtype=bool)
    if len(hashes) < window:
        return chosen
    loaded = library() if compiled else None
    if loaded is not None:
        hashes, valid = np.ascontiguousarray(hashes), np.ascontiguousarray(valid)
        loaded.dedup_winnow(address(hashes), len(hashes), window, address(valid), address(chosen))
        return chosen
    lowest = sliding(np.minimum, hashes, window)  # [N - window + 1], by where the window begins
    lowest[~valid] = 0
    # The highest of the minima of all windows that hold a place is its own hash where it is the smallest in one.
    around = np.zeros(len(hashes) + window - 1, dtype=np.uint64)
    around[window - 1 : window - 1 + len(lowest)] = lowest
    best = sliding(np.maximum, around, window)  # [N]
    np.equal(best, hashes, out=chosen)
    return chosen


def sliding(pick: np.ufunc, values: NDArray[np.uint64], window: int) -> NDArray[np.uint64]:
    """uint64 [N] -> [N - window + 1]: `pick` (minimum or maximum) over every `window` neighbours, by doubling."""
    size = 1
    while 2 * size <= window:
        values = pick(values[:-size], values[size:])
        size *= 2
    rest = window - size
    return np.asarray(pick(values[: len(values) - rest], values[rest:])) if rest else values.copy()
