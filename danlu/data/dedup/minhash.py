"""Duplicates: which documents say the same, exactly or nearly.

Exact: the hash of the cleaned text. Near: the Jaccard similarity of two documents' shingles (runs of n units),

    J(A, B) = |A ∩ B| / |A ∪ B|

estimated by MinHash (Broder 1997): for a random order of all shingles, the smallest shingle of A and the smallest
of B are the same one with probability J. With 128 orders, the share of agreeing minima estimates J with a standard
deviation of at most 0.044.

Comparing all pairs is out of the question, so signatures are cut into 32 bands of 4 rows, and documents that agree
in a whole band become a candidate pair (locality-sensitive hashing). A pair of similarity J is found with
probability 1 - (1 - J^4)^32:

    J            0.3    0.4    0.5    0.6    0.7    0.8
    found        0.23   0.57   0.87   0.99   0.9998 1.0

and counts as near-duplicate only when its *estimated* J reaches the threshold. One set of bands serves both the
removal of near-duplicates (0.7) and the looser check that nothing similar lies on both sides of the split (0.5).

Everything is numpy over whole batches. No document is compared through Python objects, no hash depends on the
process (Python's own is salted), and documents are sorted by id first: any order of input gives the same clusters.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 128
BANDS = 32
ROWS = PERMUTATIONS // BANDS

# Units in a shingle. Five English words are a phrase. Five Han characters would be one too, but Chinese texts of
# interest are short: in a verse of 20 characters one variant character would break five of 16 shingles.
SHINGLE_UNITS = {"zh": 3, "ja": 3, "ko": 3}
DEFAULT_SHINGLE_UNITS = 5

_BATCH = 1 << 18  # units hashed at once: 1 MB of uint32 shingles stays in the cache through all 128 permutations
_CLIQUE = 24  # buckets up to this size compare all pairs; larger ones each with the first and with the next
_VERIFY = 1 << 16  # candidate pairs verified at once
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)


# ---- signatures ------------------------------------------------------------------------------------------------


class UnitHashes(dict[str, int]):
    """unit -> stable 64-bit hash, computed once per distinct unit and remembered (up to a bound)."""

    def __missing__(self, unit: str) -> int:
        if len(self) >= 2_000_000:  # about 300 MB; forgetting costs time, not correctness
            self.clear()
        value = int.from_bytes(hashlib.blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        self[unit] = value
        return value


def shingle_hashes(unit_hashes: NDArray[np.uint64], lengths: NDArray[np.int64], n: int) -> NDArray[np.uint32]:
    """Hash every run of n units of many documents at once, never across the border of two.

    unit_hashes  uint64 [U], the documents one after the other
    lengths      int64 [D], units of each, all at least n
    returns      uint32 [U - D * (n - 1)], documents in the same order
    """
    count = len(unit_hashes) - n + 1
    rolled = np.zeros(count, dtype=np.uint64)
    for k in range(n):  # sum of u[i+k] * p^(n-1-k), modulo 2^64
        rolled *= _MULTIPLIERS[0]
        rolled += unit_hashes[k : k + count]
    rolled ^= rolled >> np.uint64(32)  # the low bits of a product know little of the high bits of its factors
    rolled *= _MULTIPLIERS[1]
    inside = np.ones(len(unit_hashes), dtype=bool)
    ends = np.cumsum(lengths)
    for k in range(1, n):  # runs that would begin in the last n - 1 units of a document
        inside[ends - k] = False
    return (rolled[inside[:count]] >> np.uint64(32)).astype(np.uint32)


class Signatures:
    """Collects documents' units and turns them into signatures batch by batch.

    uint32 [D, 128] in the order of `add`. A document without units has no signature (`empty` is True there) and is
    never a near-duplicate of anything: two pages of punctuation have nothing in common that could be counted. One
    of fewer than n units is a single shingle of all its units, as in `danlu.core.text.shingles`.
    """

    def __init__(self, seed: int = 1) -> None:
        random = np.random.Generator(np.random.PCG64(seed))
        # x -> a*x + b modulo 2^32 with odd a is a permutation of all 32-bit hashes; one (a, b) per permutation.
        self._a = random.integers(0, 1 << 32, PERMUTATIONS, dtype=np.uint64).astype(np.uint32) | np.uint32(1)
        self._b = random.integers(0, 1 << 32, PERMUTATIONS, dtype=np.uint64).astype(np.uint32)
        self._done: list[tuple[list[int], NDArray[np.uint32]]] = []  # (rows, their signatures)
        self._pending: dict[int, tuple[list[int], list[NDArray[np.uint64]]]] = {}  # by n
        self._pending_units = 0
        self._count = 0

    def add(self, unit_hashes: NDArray[np.uint64], n: int) -> None:
        """Add the next document: the hashes of its units, uint64 [U], in order."""
        if len(unit_hashes):
            rows, documents = self._pending.setdefault(min(n, len(unit_hashes)), ([], []))
            rows.append(self._count)
            documents.append(unit_hashes)
            self._pending_units += len(unit_hashes)
        self._count += 1
        if self._pending_units >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        for n, (rows, documents) in self._pending.items():
            lengths = np.fromiter(map(len, documents), dtype=np.int64, count=len(documents))
            shingles = shingle_hashes(np.concatenate(documents), lengths, n)  # [S]
            per_document = lengths - n + 1
            starts = np.cumsum(per_document) - per_document  # [D]
            minima = np.empty((PERMUTATIONS, len(rows)), dtype=np.uint32)
            permuted = np.empty_like(shingles)
            for i in range(PERMUTATIONS):
                np.multiply(shingles, self._a[i], out=permuted)
                permuted += self._b[i]
                minima[i] = np.minimum.reduceat(permuted, starts)
            self._done.append((rows, np.ascontiguousarray(minima.T)))
        self._pending, self._pending_units = {}, 0

    def finish(self) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        """(signatures uint32 [D, 128], empty bool [D])."""
        self._flush()
        signatures = np.zeros((self._count, PERMUTATIONS), dtype=np.uint32)
        empty = np.ones(self._count, dtype=bool)
        for rows, minima in self._done:
            signatures[rows] = minima
            empty[rows] = False
        return signatures, empty


# ---- pairs -----------------------------------------------------------------------------------------------------


def similar_pairs(
    signatures: NDArray[np.uint32], empty: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pairs (i < j) whose estimated Jaccard similarity is at least `threshold`: int64 [P, 2], float32 [P].

    Rows must be in an order that does not depend on the order of the input (sorted by id).
    """
    rows = np.flatnonzero(~empty)
    codes = [np.empty(0, dtype=np.int64)]
    for band in range(BANDS):
        keys = _band_keys(signatures[rows, band * ROWS : (band + 1) * ROWS])
        found = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *_bucket_pairs(keys, rows, len(signatures))]))
        codes.append(found)
    candidates = np.unique(np.concatenate(codes))  # sorted: by i, then by j
    pairs = np.stack([candidates // max(len(signatures), 1), candidates % max(len(signatures), 1)], axis=1)
    estimates = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), _VERIFY):
        part = pairs[start : start + _VERIFY]
        estimates[start : start + _VERIFY] = (signatures[part[:, 0]] == signatures[part[:, 1]]).mean(axis=1)
    keep = estimates >= threshold
    return pairs[keep], estimates[keep]


def _band_keys(rows: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """uint32 [D, 4] -> uint64 [D]: equal rows get equal keys; chance collisions are sorted out by verification."""
    keys = np.zeros(len(rows), dtype=np.uint64)
    for column in rows.T:
        keys = (keys ^ (keys >> np.uint64(29))) * _MULTIPLIERS[0] + column.astype(np.uint64)
    return keys


def _bucket_pairs(keys: NDArray[np.uint64], rows: NDArray[np.int64], total: int) -> Iterator[NDArray[np.int64]]:
    """Candidate pairs of one band as codes i * total + j with i < j, from buckets of equal keys."""
    order = np.argsort(keys, kind="stable")  # stable: rows stay ascending inside a bucket
    sorted_keys = keys[order]
    rows = rows[order]
    starts = np.flatnonzero(np.concatenate([np.ones(len(keys[:1]), bool), sorted_keys[1:] != sorted_keys[:-1]]))
    sizes = np.diff(np.append(starts, len(keys)))
    first_of = np.repeat(starts, sizes)  # position of the first member of my bucket
    size_of = np.repeat(sizes, sizes)
    rank = np.arange(len(keys)) - first_of
    # Member of rank r with the one d places before it: all d in small buckets, so that every pair is there.
    for distance in range(1, min(_CLIQUE, int(sizes.max(initial=1)))):
        here = np.flatnonzero((rank >= distance) & ((size_of <= _CLIQUE) | (distance == 1)))
        yield rows[here - distance] * total + rows[here]
    large = np.flatnonzero((size_of > _CLIQUE) & (rank > 1))
    yield rows[first_of[large]] * total + rows[large]


# ---- clusters --------------------------------------------------------------------------------------------------


def clusters(n: int, pairs: NDArray[np.int64] | Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Union-find: the smallest member of each element's cluster, int64 [n]. Independent of the order of `pairs`."""
    parent = array("q", range(n))  # 8 bytes each; a list of numbers takes 40

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]  # halve the path on the way up
            i = parent[i]
        return i

    for start in range(0, len(pairs), _VERIFY):
        part = pairs[start : start + _VERIFY]
        for i, j in part.tolist() if isinstance(part, np.ndarray) else part:
            a, b = find(i), find(j)
            if a != b:
                parent[max(a, b)] = min(a, b)  # the smaller one is the root, so the root is the smallest of all
    return np.fromiter((find(i) for i in range(n)), dtype=np.int64, count=n)


def text_hash(text: str) -> bytes:
    """16 bytes that stand for the text in the search for exact duplicates."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
