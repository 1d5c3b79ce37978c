"""Several samples in one row, without cross-talk.

Conversations have all lengths. One a row, padded to the longest, wastes most of the computation; so we lay several into
a row of fixed length T, as boxes into a van:

    row        u1 u1 a1 a1 | u2 a2 a2 | u3 a3 |  -
    segments    0  0  0  0    1  1  1    2  2    3       attention only within a segment
    positions   0  1  2  3    0  1  2    0  1    0       each sample believes it is alone
    targets     -  a1 a1 -    a2 a2 -    a3 -    -       next token where the assistant speaks; never across a border

With segments in the attention mask and positions that restart, every sample has the logits it would have in a row of
its own; a test holds that. (Packing without them, the obvious shortcut, lets each answer read the conversation before.)

Best fit: samples by decreasing length, each into the fullest row it still fits in. Within 22 % of the optimum in the
worst case (Johnson et al., SIAM J. Comput. 3(4), 1974) and near it on real lengths. Equal lengths are ordered by the
samples' own order, so the result is a function of the input.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from danlu.train.batches import Order
from danlu.train.loop import Micro
from danlu.train.loss import IGNORE


@dataclass(frozen=True)
class Sample:
    """One conversation as ids; mask[i] is 1 where ids[i] was said by the assistant."""

    ids: list[int]
    mask: list[int]

    @property
    def targets(self) -> int:
        """How many tokens it teaches. The first token has nothing before it and can be nobody's target."""
        return sum(self.mask[1:])


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put items into rows of ``capacity``; returns the indices in each row.

    >>> pack([3, 5, 2, 4], 7)
    [[1, 2], [3, 0]]
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (space left, row number), sorted: the first that fits is the fullest
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        assert 0 < length <= capacity, "cut or reject longer samples before packing"
        found = bisect.bisect_left(room, (length, -1))
        if found == len(room):
            rows.append([index])
            left, number = capacity - length, len(rows) - 1
        else:
            left, number = room.pop(found)
            rows[number].append(index)
            left -= length
        bisect.insort(room, (left, number))
    return rows


def collate(rows: Sequence[Sequence[Sample]], capacity: int) -> Micro:
    """Rows of samples as tensors [B, capacity]. Padding is a segment of its own and targets nothing."""
    shape = (len(rows), capacity)
    inputs = torch.zeros(shape, dtype=torch.int64)
    targets = torch.full(shape, IGNORE, dtype=torch.int64)
    positions = torch.zeros(shape, dtype=torch.int64)
    segments = torch.zeros(shape, dtype=torch.int64)
    for r, row in enumerate(rows):
        at = 0
        for number, sample in enumerate(row):
            n = len(sample.ids)
            ids, mask = torch.tensor(sample.ids), torch.tensor(sample.mask)
            inputs[r, at : at + n] = ids
            positions[r, at : at + n] = torch.arange(n)
            segments[r, at : at + n] = number
            targets[r, at : at + n - 1] = torch.where(mask[1:] == 1, ids[1:], IGNORE)
            at += n
        segments[r, at:] = len(row)
        positions[r, at:] = torch.arange(capacity - at)
    return Micro(inputs, targets, positions, segments)


class PackedSource:
    """Packed rows in an order shuffled anew each epoch. The packing is fixed; the cursor is the rows handed out."""

    def __init__(self, samples: Sequence[Sample], context: int, batch_rows: int, micro_rows: int, seed: int) -> None:
        self.samples, self.context, self.seed = samples, context, seed
        self.rows = pack([len(sample.ids) for sample in samples], context)
        self.batch_rows, self.micro_rows = batch_rows, min(micro_rows, batch_rows)
        self.position = 0
        self.order = Order(len(self.rows), seed)

    def next_step(self) -> list[Micro]:
        places = range(self.position, self.position + self.batch_rows)
        picked = [[self.samples[i] for i in self.rows[self.order[place]]] for place in places]
        self.position += self.batch_rows
        pieces = range(0, self.batch_rows, self.micro_rows)
        return [collate(picked[i : i + self.micro_rows], self.context) for i in pieces]

    def cursor(self) -> dict[str, Any]:
        return {"position": self.position, "rows": len(self.rows), "seed": self.seed}

    def resume(self, cursor: dict[str, Any]) -> None:
        assert (cursor["rows"], cursor["seed"]) == (len(self.rows), self.seed), "a cursor of other data"
        self.position = int(cursor["position"])
