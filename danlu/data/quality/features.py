"""What a linear model sees of a text: runs of one to three units, hashed into a fixed number of buckets.

    x_b = log(1 + how often runs of bucket b occur), then divided by the length of x        float32, sparse

Units, so Chinese needs no word segmenter: a run of two or three Han characters is what a word is in English. Hashing
("the hashing trick", Weinberger et al. 2009) means no vocabulary to store: memory is bounded whatever the corpus, and a
word never seen in training costs nothing. Rows of many texts are kept as CSR: `indptr` [D+1], `buckets` and `values`
[N] with row d in indptr[d] : indptr[d+1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from danlu.data.contamination.units import FACTOR, MIXER, find_units

RUNS = 3  # units in the longest run
_MOST_UNITS = 20_000  # of a text that are looked at: its beginning says what it is


@dataclass(frozen=True)
class Rows:
    """Sparse features of D texts."""

    indptr: NDArray[np.int64]
    buckets: NDArray[np.int64]
    values: NDArray[np.float32]
    width: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """These rows, in this order."""
        lengths = np.diff(self.indptr)[rows]
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        where = np.arange(int(indptr[-1])) - np.repeat(indptr[:-1] - self.indptr[rows], lengths)
        return Rows(indptr, self.buckets[where], self.values[where], self.width)

    def dot(self, weights: NDArray[np.floating]) -> NDArray[np.float64]:
        """X @ w: float64 [D]."""
        if not len(self.values):
            return np.zeros(len(self))
        products = np.append(self.values * weights[self.buckets].astype(np.float64), 0.0)
        return np.where(np.diff(self.indptr) > 0, np.add.reduceat(products, self.indptr[:-1]), 0.0)

    def back(self, amounts: NDArray[np.float64]) -> NDArray[np.float64]:
        """X.T @ a: float64 [width]."""
        each = np.repeat(amounts, np.diff(self.indptr)) * self.values
        return np.bincount(self.buckets, weights=each, minlength=self.width).astype(np.float64, copy=False)

    def dense(self) -> NDArray[np.float32]:
        """float32 [D, width]."""
        full = np.zeros((len(self), self.width), dtype=np.float32)
        full[np.repeat(np.arange(len(self)), np.diff(self.indptr)), self.buckets] = self.values
        return full


def featurize(texts: Sequence[str], width: int) -> Rows:
    """The features of `texts` in `width` (a power of two) buckets. A text without units is a row without values."""
    assert width & (width - 1) == 0, "width must be a power of two"
    buckets, values, lengths = [np.empty(0, np.int64)], [np.empty(0, np.float32)], [0]
    for text in texts:
        hashes = find_units(text[: 8 * _MOST_UNITS]).hashes[:_MOST_UNITS]
        runs, rolled = [], np.zeros(len(hashes), dtype=np.uint64)
        for n in range(min(RUNS, len(hashes))):
            rolled = rolled[: len(hashes) - n] * FACTOR + hashes[n:]
            runs.append((rolled ^ (rolled >> np.uint64(29))) * MIXER)
        all_runs = np.concatenate([np.empty(0, np.uint64), *runs])
        found, counts = np.unique(all_runs >> np.uint64(65 - width.bit_length()), return_counts=True)
        value = np.log1p(counts).astype(np.float32)
        length = float(np.sqrt((value.astype(np.float64) ** 2).sum()))
        buckets.append(found.astype(np.int64))
        values.append(value / np.float32(length or 1.0))
        lengths.append(len(found))
    return Rows(np.cumsum(lengths), np.concatenate(buckets), np.concatenate(values), width)
