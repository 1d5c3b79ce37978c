"""Signatures made without texts, for tests of what comes after them."""

from __future__ import annotations

import numpy as np

from danlu.data.dedup.minhash import PERMUTATIONS


def planted(count: int, seed: int, share: float = 0.4, most: float = 0.6) -> np.ndarray:
    """uint32 [count, 128]: the last `share` are copies of others with up to `most` of their places changed."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, 1 << 32, (count, PERMUTATIONS), dtype=np.uint32)
    copies = int(count * share)
    rows[count - copies :] = rows[random.integers(0, count - copies, copies)]
    changed = random.random((count, PERMUTATIONS)) < random.random((count, 1)) * most
    changed[: count - copies] = False
    rows[changed] = random.integers(0, 1 << 32, int(changed.sum()), dtype=np.uint32)
    return rows[random.permutation(count)]


def some_keys(count: int, seed: int = 0) -> np.ndarray:
    """uint64 [count]: keys of ids, all different."""
    return np.random.default_rng(seed).permutation(np.arange(count, dtype=np.uint64) * np.uint64(2**40 + 7))
