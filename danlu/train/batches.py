"""Training batches from memory-mapped token shards.

The shards are one long stream of tokens, document after document. A window is ``context + 1`` neighbours of it: the
first ``context`` are the input and the last ``context``, one to the right, are the targets.

    stream    t0 t1 t2 t3 t4 t5 t6 t7 t8            context = 3
    window 0  t0 t1 t2 t3                           inputs t0 t1 t2   targets t1 t2 t3
    window 1           t3 t4 t5 t6                  inputs t3 t4 t5   targets t4 t5 t6
    window 2                    t6 t7 t8 --         the shard ends: the missing target is IGNORE

Windows overlap by one token, so every token but the first of a shard is a target exactly once per epoch. Each epoch
visits all windows in its own order, a permutation drawn from (seed, epoch) alone. The state of the whole reader is
therefore one integer: how many windows were handed out. That is what makes resuming exact: no buffer to save, no
shuffle to replay. (The obvious other way, a random offset for every row, sees some tokens thrice and others never.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danlu.core.errors import UserError
from danlu.train.loss import IGNORE


class Windows:
    """All windows of a list of one-dimensional token arrays (usually memory-mapped), in their natural order."""

    def __init__(self, shards: Sequence[np.ndarray], context: int) -> None:
        self.shards = [shard for shard in shards if len(shard) >= 2]  # a single token predicts nothing
        self.context = context
        counts = [-(-(len(shard) - 1) // context) for shard in self.shards]  # ceil
        self.ends = np.cumsum([0, *counts])  # window w lives in the shard s with ends[s] <= w < ends[s + 1]
        self.tokens = sum(len(shard) - 1 for shard in self.shards)  # targets per epoch

    def __len__(self) -> int:
        return int(self.ends[-1])

    def rows(self, which: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """inputs [B, T] and targets [B, T] (int64) of the windows numbered ``which``."""
        inputs = np.zeros((len(which), self.context), dtype=np.int64)
        targets = np.full((len(which), self.context), IGNORE, dtype=np.int64)
        for row, window in enumerate(which):
            s = int(np.searchsorted(self.ends, window, side="right")) - 1
            start = (int(window) - int(self.ends[s])) * self.context
            piece = self.shards[s][start : start + self.context + 1]
            inputs[row, : len(piece) - 1] = piece[:-1]
            targets[row, : len(piece) - 1] = piece[1:]
        return torch.from_numpy(inputs), torch.from_numpy(targets)


class Order:
    """What comes at place 0, 1, 2, ...: a new permutation of ``count`` things each epoch, from (seed, epoch) alone."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, place: int) -> int:
        epoch, index = divmod(place, self.count)
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            self._epoch, self._permutation = epoch, generator.permutation(self.count)
        return int(self._permutation[index])


class Batches:
    """An endless, shuffled, resumable reader of windows.

    ``next(rows)`` hands out the next windows; a batch may reach from one epoch into the next. ``cursor()`` is the
    position as plain data and ``resume(cursor)`` goes back to it, on a reader made with the same arguments.
    """

    def __init__(self, shards: Sequence[np.ndarray], context: int, *, seed: int) -> None:
        self.windows = Windows(shards, context)
        if not len(self.windows):
            raise UserError("the token shards hold no tokens to train on", "pack a corpus that is not empty")
        self.seed = seed
        self.position = 0  # windows handed out since the beginning of training
        self._order = Order(len(self.windows), seed)

    @property
    def epoch(self) -> float:
        return self.position / len(self.windows)

    def next(self, rows: int) -> tuple[Tensor, Tensor]:
        """inputs [rows, T] and targets [rows, T]; moves the cursor by ``rows``."""
        which = [self._order[self.position + i] for i in range(rows)]
        self.position += rows
        return self.windows.rows(which)

    def cursor(self) -> dict[str, Any]:
        return {"position": self.position, "seed": self.seed, "windows": len(self.windows)}

    def resume(self, cursor: dict[str, Any]) -> None:
        assert (cursor["seed"], cursor["windows"]) == (self.seed, len(self.windows)), "a cursor of other data"
        self.position = int(cursor["position"])
