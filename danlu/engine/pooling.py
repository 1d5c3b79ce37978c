"""One vector for a whole text, from the hidden states of its tokens after the last norm, h [n, D]:

    last    h[n - 1]                    the one token of a causal model that has seen all the others
    mean    (h[0] + ... + h[n - 1]) / n
    then    v / |v|, unless told otherwise: a dot product of two such vectors is the cosine of their angle

A text is read in chunks, and what else is in a step decides where they are cut. The sum does not know: it runs in
float64, row after row from the first, so its bits depend on the rows alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.engine.request import Pooling


class Pool:
    """The vector of one text in the making. `n` hidden states are in it."""

    def __init__(self, pooling: Pooling) -> None:
        self.pooling, self.n = pooling, 0
        self._sum: Tensor | None = None  # [D], float64

    def wanted(self, start: int, end: int, known: int) -> int:
        """How many of the rows of tokens `start .. end`, counted from the last, are still to be added.

        `known` is the length of the text. A row may have been added before a preemption.
        """
        return int(end == known) if self.pooling.kind == "last" else max(0, end - max(start, self.n))

    def add(self, rows: Tensor) -> None:
        """Hidden states [n, D] of the next tokens; with "last", of the last token alone."""
        if self._sum is None:
            self._sum = torch.zeros(rows.shape[1], dtype=torch.float64)
        for row in rows.to("cpu", torch.float64):
            self._sum += row
        self.n += len(rows)

    def vector(self) -> tuple[float, ...] | None:
        """The vector, rounded to float32; None when the model gave something that is not a number."""
        assert self._sum is not None, "no hidden state was added"
        vector = self._sum / self.n
        if self.pooling.normalize:
            vector /= vector.norm().clamp_min(torch.finfo(torch.float64).tiny)  # zeros stay zeros
        vector = vector.float()
        return tuple(vector.tolist()) if bool(torch.isfinite(vector).all()) else None
