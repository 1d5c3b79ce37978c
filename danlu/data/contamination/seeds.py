"""Seeds: runs of four units, the cheap first question "does this text share anything with a benchmark at all".

    index side   key of every run of WIDTH units of every item, sorted; a Bloom filter of 32 bits a key before them
    text side    one pass, one question to the filter per unit; a hit is (text, unit, seed)

The key of units u_i .. u_(i+w-1) is Σ u_(i+j) · Q^(w-1-j) modulo 2^64, mixed: it rolls, so its width costs nothing.
Four, because a copy in which every tenth unit was changed still shares two thirds of its runs of four, and a question
of ten units with one changed three of its seven, while two unrelated pages share one only by using the same phrase. The
pass is C++ (`seeds.cpp`); the numpy below gives the same hits.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from danlu.core import native
from danlu.data.contamination.units import FACTOR, GAP_HASH, MIXER, find_units, tables

WIDTH = 4  # units
_BITS_PER_KEY = 32

SEEDS = native.Native("contamination", Path(__file__).parent, ("seeds.cpp",), "numpy looks for seeds, more slowly")


class Hits(NamedTuple):
    """Where texts share a seed, in the order of texts and units: int32 [H] each. `unit` is the first of the run."""

    text: NDArray[np.int32]
    unit: NDArray[np.int32]
    seed: NDArray[np.int32]


def seed_keys(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """uint64 [U] hashes of units -> uint64 [U - WIDTH + 1] keys of their runs; empty for shorter texts."""
    count = max(len(hashes) - WIDTH + 1, 0)
    rolled = np.zeros(count, dtype=np.uint64)
    for k in range(WIDTH):
        rolled = rolled * FACTOR + hashes[k : k + count]
    rolled ^= rolled >> np.uint64(32)
    return rolled * MIXER


def without_gaps(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """bool [U - WIDTH + 1]: which runs hold no gap."""
    gaps = np.concatenate([np.zeros(1, np.int64), np.cumsum(hashes == GAP_HASH)])
    count = max(len(hashes) - WIDTH + 1, 0)
    return gaps[WIDTH : WIDTH + count] == gaps[:count]


class Seeds:
    """The keys of an index, ready to be searched for. `keys`: uint64 [K], ascending and distinct."""

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        self.keys = np.ascontiguousarray(keys)
        self._log_words = max(4, int(np.ceil(np.log2(max(len(keys) * _BITS_PER_KEY / 64, 1)))))
        self._filter = np.zeros(1 << self._log_words, dtype=np.uint64)
        np.bitwise_or.at(self._filter, self._word(keys), _two_bits(keys))

    def _word(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (keys >> np.uint64(64 - self._log_words)).astype(np.int64)

    def find(self, texts: Sequence[str]) -> Hits:
        """Every place of every text where WIDTH units in a row are a key."""
        library = _library()
        return self._find_native(library, texts) if library else self.find_in_numpy(texts)

    def _find_native(self, library: ctypes.CDLL, texts: Sequence[str]) -> Hits:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        data = b"".join(encoded)
        offsets = np.zeros(len(texts) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
        folded, kinds = tables()
        capacity = 1024 + len(data) // 64
        while True:
            found = [np.empty(capacity, dtype=np.int32) for _ in range(3)]
            count = library.danlu_find_seeds(
                data, offsets.ctypes.data, len(texts), folded.ctypes.data, kinds.ctypes.data,
                self._filter.ctypes.data, self._log_words, self.keys.ctypes.data, len(self.keys), WIDTH,
                *(column.ctypes.data for column in found), capacity,
            )  # fmt: skip
            if count <= capacity:
                return Hits(*(column[:count] for column in found))
            capacity = count

    def find_in_numpy(self, texts: Sequence[str]) -> Hits:
        """`find` without compiled code."""
        columns: list[tuple[NDArray[np.int32], ...]] = [tuple(np.empty(0, dtype=np.int32) for _ in range(3))]
        for number, text in enumerate(texts):
            keys = seed_keys(find_units(text).hashes)
            bits = _two_bits(keys)
            units = np.flatnonzero(self._filter[self._word(keys)] & bits == bits)
            places = np.searchsorted(self.keys, keys[units])
            inside = places < len(self.keys)
            units, places = units[inside], places[inside]
            same = self.keys[places] == keys[units]
            row = (np.full(int(same.sum()), number), units[same], places[same])
            columns.append(tuple(column.astype(np.int32) for column in row))
        return Hits(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))


def _two_bits(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    one = np.uint64(1)
    return (one << (keys & np.uint64(63))) | (one << (keys >> np.uint64(6) & np.uint64(63)))


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = native.load(SEEDS)
    if library is not None:
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        library.danlu_find_seeds.restype = number
        library.danlu_find_seeds.argtypes = [
            ctypes.c_char_p, pointer, number, pointer, pointer, pointer, ctypes.c_int, pointer, number, ctypes.c_int,
            pointer, pointer, pointer, number,
        ]  # fmt: skip
    return library
