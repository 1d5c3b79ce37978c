"""MinHash in numbers, and what the search for duplicates shares: hashes of units, union-find, hashes of texts.

The similarity of two documents is the Jaccard similarity of their shingles (runs of n units),

    J(A, B) = |A ∩ B| / |A ∪ B|

estimated by MinHash (Broder 1997; `signature`). Comparing all pairs is out of the question, so signatures are cut into
32 bands of 4 rows, and documents that agree in a whole band become a candidate pair (locality-sensitive hashing;
`bands`, `clusters`). A pair of similarity J is found with probability 1 - (1 - J^4)^32:

    J            0.3    0.4    0.5    0.6    0.7    0.8
    found        0.23   0.57   0.87   0.99   0.9998 1.0

and counts as near-duplicate only when J reaches the threshold: by its estimate, and where that is near the threshold
by the texts (`verify`). One set of bands serves both the removal of near-duplicates (0.7) and the looser check that
nothing similar lies on both sides of the split (0.5).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 128
BANDS = 32
ROWS = PERMUTATIONS // BANDS

_PAIRS = 1 << 16  # pairs that are Python objects at a time


class UnitHashes(dict[str, int]):
    """unit -> stable 64-bit hash, computed once per distinct unit and remembered (up to a bound)."""

    def __missing__(self, unit: str) -> int:
        if len(self) >= 2_000_000:  # about 300 MB; forgetting costs time, not correctness
            self.clear()
        value = int.from_bytes(hashlib.blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        self[unit] = value
        return value


def clusters(n: int, pairs: NDArray[np.int64] | Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Union-find: the smallest member of each element's cluster, int64 [n]. Independent of the order of `pairs`."""
    parent = array("q", range(n))  # 8 bytes each; a list of numbers takes 40

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]  # halve the path on the way up
            i = parent[i]
        return i

    for start in range(0, len(pairs), _PAIRS):
        part = pairs[start : start + _PAIRS]
        for i, j in part.tolist() if isinstance(part, np.ndarray) else part:
            a, b = find(i), find(j)
            if a != b:
                parent[max(a, b)] = min(a, b)  # the smaller one is the root, so the root is the smallest of all
    return np.fromiter((find(i) for i in range(n)), dtype=np.int64, count=n)


def text_hash(text: str) -> bytes:
    """16 bytes that stand for the text in the search for exact duplicates."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
