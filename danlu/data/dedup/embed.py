"""Vectors for texts without a model: hashed units and pairs of units, weighted by rarity, projected at random.

    text -> units -> 1-grams and 2-grams -> one of 2^18 features each -> (1 + ln tf) * idf -> 256 numbers, length 1

A feature is added to 8 of the 256 coordinates with signs that its number decides (a sparse random projection,
Achlioptas 2003, Li, Hastie and Church 2006): the cosine of two vectors is that of their 262,144 weights, with an
error of about 1/sqrt(256). A Han character alone says little and a pair is often a word, which is why pairs are in
it; for English they are phrases.

Such a vector knows words, not meanings: pages about one thing in the same words are near each other, a translation is
not. Where there is an embedding model, its vectors go into `semantic` and `topics` in the same place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from danlu.core.text import units
from danlu.data.dedup.minhash import UnitHashes

DIMENSIONS = 256
FEATURES = 1 << 18
_EACH = 8  # coordinates a feature is added to
_BATCH = 1 << 18  # units
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Embedding:
    """`count` every text once (any order), then `vectors` for every text."""

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        self.dimensions = dimensions
        self.documents = 0
        self._frequency = np.zeros(FEATURES, dtype=np.int64)  # documents a feature is in
        self._hashes = UnitHashes()
        self._idf: NDArray[np.float32] | None = None
        random = np.random.Generator(np.random.PCG64(17))
        self._coordinates = random.integers(0, dimensions, (FEATURES, _EACH), dtype=np.int32)
        self._signs = (random.integers(0, 2, (FEATURES, _EACH), dtype=np.int8) * 2 - 1).astype(np.float32)

    def count(self, texts: Iterable[str]) -> None:
        """Learn in how many documents each feature is."""
        for batch in self._batches(texts):
            self._learn(_features(batch))

    def vectors(self, texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
        """Yield float32 [n, dimensions] for one batch of texts after the other, in order; rows have length 1.

        A text without units has a row of zeros.
        """
        for batch in self._batches(texts):
            yield self._project(_features(batch))

    def fit(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """`count` and `vectors` at once, float32 [D, dimensions], for texts that are few: their features are kept."""
        found = [_features(batch) for batch in self._batches(texts)]
        for features in found:
            self._learn(features)
        return np.concatenate([np.empty((0, self.dimensions), np.float32), *map(self._project, found)])

    def _learn(self, found: _Features) -> None:
        self._frequency += np.bincount(found.feature, minlength=FEATURES)
        self.documents += found.documents
        self._idf = None

    def _project(self, found: _Features) -> NDArray[np.float32]:
        if self._idf is None:
            self._idf = (0.1 + np.log((1 + self.documents) / (1 + self._frequency))).astype(np.float32)
        weights = (1 + np.log(found.times)).astype(np.float32) * self._idf[found.feature]
        places = found.document[:, None] * self.dimensions + self._coordinates[found.feature]  # [F, 8]
        summed = np.bincount(
            places.ravel(),
            weights=(weights[:, None] * self._signs[found.feature]).ravel(),
            minlength=found.documents * self.dimensions,
        ).reshape(found.documents, self.dimensions)
        return normalised(summed)

    def _batches(self, texts: Iterable[str]) -> Iterator[list[NDArray[np.uint64]]]:
        batch: list[NDArray[np.uint64]] = []
        waiting = 0
        for text in texts:
            found = units(text.lower())
            batch.append(np.fromiter(map(self._hashes.__getitem__, found), dtype=np.uint64, count=len(found)))
            waiting += len(found)
            if waiting >= _BATCH or len(batch) >= 4096:
                yield batch
                batch, waiting = [], 0
        if batch:
            yield batch


class _Features(NamedTuple):
    """Every feature of every document of a batch once, in the order of documents: int64 [F] each."""

    feature: NDArray[np.int64]
    document: NDArray[np.int64]
    times: NDArray[np.int64]
    documents: int


def _features(batch: list[NDArray[np.uint64]]) -> _Features:
    lengths = np.array([len(one) for one in batch], dtype=np.int64)
    together = np.concatenate(batch) if batch else np.empty(0, dtype=np.uint64)
    owner = np.repeat(np.arange(len(batch)), lengths)
    pairs = (together[:-1] * _MULTIPLIER) ^ (together[1:] >> np.uint64(7))
    inside = owner[:-1] == owner[1:]
    hashes = np.concatenate([together, pairs[inside]]) * _MULTIPLIER
    documents = np.concatenate([owner, owner[:-1][inside]])
    codes = documents * FEATURES + (hashes >> np.uint64(46)).astype(np.int64)  # the upper 18 bits
    found, times = np.unique(codes, return_counts=True)
    return _Features(found % FEATURES, found // FEATURES, times, len(batch))


def normalised(rows: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float32]:
    """Rows of length 1, float32; rows of zeros stay."""
    lengths = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
