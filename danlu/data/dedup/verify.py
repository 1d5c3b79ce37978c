"""The last word on pairs in doubt: exact Jaccard similarity, from the shingles of their texts.

Signatures estimate similarity with a standard deviation of 0.04. Near the threshold that decides by chance: of pairs at
0.71 it would lose four in ten, and find as many at 0.69. So the walk joins only what is beyond doubt (three standard
deviations above the threshold) and writes down what is within three on either side; here those pairs are decided, by

    |A ∩ B| / |A ∪ B|  over the hashes of shingles (32 bits)

Only the texts of documents in doubt are read again, once. Their shingles lie in a file of `work`; memory holds 16 bytes
for each of these documents. Pairs are taken in ascending order and those that are joined by then are passed over: the
components that come out do not depend on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.data.dedup.native import flatten
from danlu.data.dedup.spill import Spill, count_records, read_spill
from danlu.data.dedup.walk import EDGE_WORDS, Rules, find, unite

Shingles = Callable[[NDArray[np.bool_]], Iterator[NDArray[np.uint32]]]
"""From bool [D] by position to the sets (uint32, ascending, each once) of those documents, by position."""

DEVIATIONS = 3.0  # of the estimate on either side of the threshold; beyond it, one pair in 700 is decided wrongly
_PAIR_WORDS = 2


def decide(
    near: NDArray[np.uint32],
    order: NDArray[np.uint32],
    edges: list[Path],
    shingles: Shingles,
    threshold: float,
    rules: Rules,
    work: Path,
    memory_bytes: int,
) -> int:
    """Join in the forest `near` (by rank) the pairs of `edges` that were in doubt and reach `threshold`.

    Returns how many pairs were compared. order: uint32 [D], rank -> position.
    """
    flatten(near)
    spill = Spill(work, "doubt", _PAIR_WORDS, sum(count_records(file, EDGE_WORDS) for file in edges), memory_bytes)
    wanted = np.zeros(len(order), dtype=bool)
    for piece in (piece for file in edges for piece in read_spill(file, EDGE_WORDS)):
        doubtful = (piece[:, 2] >= rules.need_doubt) & (piece[:, 2] < rules.need_near)
        pairs = np.sort(piece[doubtful, :2], axis=1)
        pairs = pairs[near[pairs[:, 0]] != near[pairs[:, 1]]]
        wanted[order[pairs]] = True
        spill.add(np.ascontiguousarray(pairs))
    spill.commit()
    sets = _Sets(wanted, shingles, work / "shingles.u32")
    compared = 0
    last = [-1, -1]
    for pair in (pair for records in spill.ascending() for pair in records.tolist()):
        if pair != last and find(near, pair[0]) != find(near, pair[1]):
            compared += 1
            if sets.similarity(int(order[pair[0]]), int(order[pair[1]])) >= threshold:
                unite(near, *pair)
        last = pair
    spill.remove()
    sets.remove()
    return compared


class _Sets:
    """The shingles of the documents that are `wanted`, bool [D], in a file."""

    def __init__(self, wanted: NDArray[np.bool_], shingles: Shingles, path: Path) -> None:
        self._path, self._positions = path, np.flatnonzero(wanted)
        sizes = np.zeros(len(self._positions) + 1, dtype=np.int64)
        with path.open("wb") as out:
            for number, one in enumerate(shingles(wanted) if len(self._positions) else (), start=1):
                out.write(np.ascontiguousarray(one, dtype="<u4").data)
                sizes[number] = len(one)
        self._ends = np.cumsum(sizes)
        self._file = os.open(path, os.O_RDONLY)

    def similarity(self, one: int, other: int) -> float:
        """Of the documents at two positions."""
        a, b = self._of(one), self._of(other)
        shared = len(np.intersect1d(a, b, assume_unique=True))
        return shared / max(len(a) + len(b) - shared, 1)

    def _of(self, position: int) -> NDArray[np.uint32]:
        place = int(np.searchsorted(self._positions, position))
        begin, end = self._ends[place : place + 2].tolist()
        return np.frombuffer(os.pread(self._file, 4 * (end - begin), 4 * begin), dtype="<u4")

    def remove(self) -> None:
        os.close(self._file)
        self._path.unlink()
