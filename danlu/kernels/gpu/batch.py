"""What attention over the paged cache is told of a step.

Sequences are of two kinds, which are computed differently (attention.py): short ones, those that decode, with their
keys cut into splits for several programs; and long ones, chunks of a prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SHORT = 16  # most rows of a short sequence
SPLIT = 128  # keys of one program of a short one: 4,096 tokens on 8 KV heads are 256 programs; tuned on an H200
HEADER = 3  # numbers before the block table in a line of `PagedBatch.lines`


@dataclass(frozen=True)
class PagedBatch:
    """Which rows belong to which sequence, and where its keys lie. Made once a step, used by all layers.

        lines  [S, 3 + W] int32:  first row | rows | length | block, block, ...     short sequences first

    What follows the last block of a line is never read. The other numbers are kept on the CPU as well, where the number
    of programs is decided. A line of no rows is allowed, for a row that nobody asks for.
    """

    lines: Tensor
    firsts: tuple[int, ...]
    counts: tuple[int, ...]
    lengths: tuple[int, ...]
    n_rows: int
    most_splits: int | None = None  # where lengths are only known to lie within so many splits
    _n_splits: dict[int | None, int] = field(default_factory=dict)  # by window: every layer asks
    layouts: dict[int | None, Any] = field(default_factory=dict)  # by window: those of varlen.py

    @staticmethod
    def of(spans: Sequence[tuple[int, int, int, Sequence[int]]], device: torch.device | str) -> PagedBatch:
        """From (first row, rows, length, block table) of each sequence, in any order."""
        spans = sorted(spans, key=lambda span: span[1] > SHORT)
        width = max((len(table) for *_, table in spans), default=0)
        lines = [[row, n, length, *table, *[0] * (width - len(table))] for row, n, length, table in spans]
        packed = torch.tensor(lines, dtype=torch.int32).view(len(spans), -1).to(device, non_blocking=True)
        firsts = tuple(span[0] for span in spans)
        counts, lengths = tuple(span[1] for span in spans), tuple(span[2] for span in spans)
        return PagedBatch(packed, firsts, counts, lengths, sum(counts))

    @staticmethod
    def of_decoding(lines: Tensor, most_splits: int) -> PagedBatch:
        """Up to S sequences that add one row each, whatever `lines` will say of them: their lengths, `most_splits` *
        SPLIT at most, are not known here."""
        n = len(lines)
        return PagedBatch(lines, tuple(range(n)), (1,) * n, (most_splits * SPLIT,) * n, n, most_splits)

    @functools.cached_property
    def n_short(self) -> int:
        return sum(count <= SHORT for count in self.counts)

    @property
    def n_long(self) -> int:
        return len(self.counts) - self.n_short

    def n_splits(self, window: int | None) -> int:
        """The most splits that a short sequence's keys lie in."""
        if self.most_splits is not None:  # a window touches one more than it fills
            return min(self.most_splits, (window + SPLIT - 2) // SPLIT + 1) if window else self.most_splits
        if window not in self._n_splits:
            most = 1
            for count, length in zip(self.counts[: self.n_short], self.lengths, strict=False):
                low = max(0, length - count + 1 - window) if window else 0
                most = max(most, -(-length // SPLIT) - low // SPLIT)
            self._n_splits[window] = most
        return self._n_splits[window]
