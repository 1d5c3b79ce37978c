"""MinHash signatures: 128 numbers that stand for a document when documents are compared.

    unit      u = scramble(c_1, c_2, ...)         64 bits of its lower-cased code points
    shingle   s = top 32 bits of mix(u_1 p^(n-1) + ... + u_n)      for every run of n units
    signature h_k = min over s of (a_k s + b_k mod 2^32)           k = 1 ... 128, a_k odd

x -> a x + b with odd a is a permutation of the 32-bit numbers, so two documents agree in h_k when the shingle that the
k-th permutation puts first is one they share: with probability J, their Jaccard similarity (Broder 1997). The share of
agreeing rows of a signature estimates J with a standard deviation of at most 0.044.

This file is the definition, in Python and numpy; `danlu.data.scan` computes the same numbers in C++ while it reads the
text. Nothing here depends on the process (Python's own hash is salted), the machine or the batch.

A document without units has no signature (zeros, and `empty` is True): two pages of punctuation have nothing in common
that could be counted. One of fewer than n units is a single shingle of all of them, as in `danlu.core.text.shingles`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from danlu.core.text import units

PERMUTATIONS = 128

# Units in a shingle. Five English words are a phrase. Five Han characters would be one too, but Chinese texts of
# interest are short: in a verse of 20 characters one variant character would break five of 16 shingles.
SHINGLE_UNITS = {"zh": 3, "ja": 3, "ko": 3}
DEFAULT_SHINGLE_UNITS = 5

# Odd constants without pattern: the golden ratio and primes of xxHash, as in many hashes of this kind.
SEED = 0x27D4EB2F165667C5
FACTOR = 0x9E3779B97F4A7C15
FACTOR_2 = 0xC2B2AE3D27D4EB4F
_MASK = (1 << 64) - 1


def shingle_units(language: str) -> int:
    """How many units a shingle of a text in this language has."""
    return SHINGLE_UNITS.get(language, DEFAULT_SHINGLE_UNITS)


@functools.cache
def permutations(seed: int = 1) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """(a, b), uint32 [128] each: the permutation k is x -> a[k] x + b[k] modulo 2^32."""
    random = np.random.Generator(np.random.PCG64(seed))
    a = random.integers(0, 1 << 32, PERMUTATIONS, dtype=np.uint64).astype(np.uint32) | np.uint32(1)
    b = random.integers(0, 1 << 32, PERMUTATIONS, dtype=np.uint64).astype(np.uint32)
    return a, b


@functools.lru_cache(maxsize=1 << 18)
def unit_hash(unit: str) -> int:
    """64 bits that stand for a unit, which must be lower-cased already."""
    value = SEED
    for character in unit:
        value = ((value ^ ord(character)) * FACTOR) & _MASK
    value ^= value >> 32  # the low bits of a product know little of the high bits of its factors
    return (value * FACTOR_2) & _MASK


def shingle_hashes(unit_hashes: NDArray[np.uint64], n: int) -> NDArray[np.uint32]:
    """Of one document: uint64 [U] -> uint32 [max(U - n, 0) + 1]; no units, no shingles."""
    n = min(n, len(unit_hashes))
    if n == 0:
        return np.zeros(0, dtype=np.uint32)
    count = len(unit_hashes) - n + 1
    rolled = np.zeros(count, dtype=np.uint64)
    for k in range(n):
        rolled = rolled * np.uint64(FACTOR) + unit_hashes[k : k + count]
    rolled ^= rolled >> np.uint64(32)
    return ((rolled * np.uint64(FACTOR_2)) >> np.uint64(32)).astype(np.uint32)


def text_shingles(text: str, language: str) -> NDArray[np.uint32]:
    """Hashes of the shingles of a text, in its order."""
    parts = units(text.lower())
    hashes = np.fromiter(map(unit_hash, parts), dtype=np.uint64, count=len(parts))
    return shingle_hashes(hashes, shingle_units(language))


def signature(text: str, language: str) -> NDArray[np.uint32]:
    """uint32 [128] of one text; zeros when it has no units."""
    shingles = text_shingles(text, language)
    if not len(shingles):
        return np.zeros(PERMUTATIONS, dtype=np.uint32)
    a, b = permutations()
    least = np.full(PERMUTATIONS, 0xFFFFFFFF, dtype=np.uint32)
    for start in range(0, len(shingles), 4096):  # [128, 4096] at a time
        np.minimum(least, (shingles[start : start + 4096, None] * a + b).min(axis=0), out=least)
    return least


def signatures(texts: Sequence[str], languages: Sequence[str]) -> NDArray[np.uint32]:
    """uint32 [D, 128], the slow way."""
    rows = [signature(text, language) for text, language in zip(texts, languages, strict=True)]
    return np.stack(rows) if rows else np.zeros((0, PERMUTATIONS), dtype=np.uint32)
