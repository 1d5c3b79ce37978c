"""Which documents a share means, and where in the whole each one comes.

The documents of a group make an endless stream: all of them in a drawn order (by the hash of id and seed), then all
again in the same order, so that a repetition is as far from the first reading as it can be. A phase takes the next
stretch of it, in bytes:

    offset   0        B        2B            B: bytes of one epoch of the group
             |--------|--------|---
             [ phase 1  )[ phase 2 )         a document belongs where its first byte lies

so nothing is repeated before everything was read once, whatever the phases. Inside a phase a document's place is the
share of its group's stretch that lies before it, a number in [0, 1): sorted by place, the groups interleave, and every
prefix of the phase has (to within a document) the proportions of the whole.

Rehydration (FineWeb2): a document that stands for many copies (`meta.copies`, the size of its cluster of duplicates)
counts as several documents of an epoch, each with a draw of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass
class Stream:
    """One group. The arrays have one entry for each document of an epoch [N], in the order of their draws.

    documents  int64, numbers of documents in the corpora; a rehydrated one is there more than once
    sizes      int64, bytes (or tokens, or 1 where documents are counted)
    scores     float64, what the curriculum orders by
    """

    documents: NDArray[np.int64]
    sizes: NDArray[np.int64]
    scores: NDArray[np.float64]
    taken: int = 0  # how far phases have read

    @property
    def epoch(self) -> int:
        """Size of one epoch."""
        return int(self.sizes.sum())

    def take(self, amount: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The next `amount` of the stream: (entries of an epoch, which epoch each is in, from 0), int64 [I] both."""
        begin, end = self.taken, self.taken + amount
        self.taken = end
        before = np.cumsum(self.sizes) - self.sizes
        entries, epochs = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for epoch in range(begin // self.epoch, -(-end // self.epoch)) if amount else ():
            offset = epoch * self.epoch + before
            inside = np.flatnonzero((offset >= begin) & (offset < end))
            entries.append(inside)
            epochs.append(np.full(len(inside), epoch))
        return np.concatenate(entries), np.concatenate(epochs)

    def places(
        self, entries: NDArray[np.int64], epochs: NDArray[np.int64], order: str
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(the order of what was taken, the place in [0, 1) of each in that order).

        `order`: "shuffle" keeps the draws, "ascending" and "descending" sort each epoch by score.
        """
        key = {"shuffle": np.zeros(len(entries)), "ascending": self.scores[entries]}.get(order, -self.scores[entries])
        sorted_ = np.lexsort((entries, key, epochs))
        sizes = self.sizes[entries[sorted_]]
        before = np.cumsum(sizes) - sizes
        return sorted_, (before + sizes / 2) / max(int(sizes.sum()), 1)


def draws(ids: Sequence[str], salt: str) -> NDArray[np.uint64]:
    """uint64 [N]: a number for each id that depends on nothing but the id and the salt."""
    person = hashlib.blake2b(salt.encode(), digest_size=16).digest()
    parts = (hashlib.blake2b(i.encode(), digest_size=8, person=person).digest() for i in ids)
    return np.frombuffer(b"".join(parts), dtype="<u8").astype(np.uint64)


def times(copies: NDArray[np.int64], steps: Mapping[int, int]) -> NDArray[np.int64]:
    """int64 [N]: how often a document with so many copies counts. `steps` maps a least number of copies to that.

    >>> times(np.array([1, 2, 4, 5, 900]), {2: 2, 5: 3}).tolist()
    [1, 2, 2, 3, 3]
    """
    counts = np.ones(len(copies), dtype=np.int64)
    for least in sorted(steps):
        counts[copies >= least] = steps[least]
    return counts


def make_stream(
    ids: Sequence[str],
    documents: NDArray[np.int64],
    sizes: NDArray[np.int64],
    scores: NDArray[np.float64],
    repeats: NDArray[np.int64],
    salt: str,
) -> Stream:
    """The stream of a group; `repeats` [N] says how often each document is in an epoch. All arrays [N]."""
    rows = np.repeat(np.arange(len(ids)), repeats)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    drawn = draws(
        [f"{ids[row]}~{n}" if n else ids[row] for row, n in zip(rows.tolist(), nth.tolist(), strict=True)], salt
    )
    order = rows[np.lexsort((nth, documents[rows], drawn))]
    return Stream(documents[order], sizes[order], scores[order])
