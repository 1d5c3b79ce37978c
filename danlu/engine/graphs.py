"""Decoding steps on a GPU, recorded once and played back.

A decoding step is a few hundred launches of kernels that run for microseconds each: a GPU that is told of them one by
one waits for Python most of the time. A CUDA graph is such a row of launches with all its arguments, recorded once and
started by a single call. What is recorded is fixed, addresses and shapes and numbers of programs, so a step is brought
into one of few shapes, powers of two:

    5 sequences, the longest of 700 tokens    ->    8 rows, 4 splits of 256 keys, tables of 64 blocks of 16 tokens

        ids, positions, slots   [8]            the step's five, then 0  0  -1      nothing is kept at slot -1
        lines                   [8, 3 + 64]    the step's five, then 0  0  0       no query, so no attention

Rows of padding are computed and dropped. No other row sees them, and as 16 is a power of two no product changes its
kind (kernels/gpu/matrix.py): a row has the bits that it has without padding, as far as torch's products keep theirs.

The first step of a shape runs like any other: it brings up kernels and libraries, which cannot be recorded. The second
is recorded. From then on a step is two copies into the same memory and one call. All graphs share one pool of memory:
what one of them leaves there is read before the next one is played.

Recorded are steps in which every sequence adds one token and asks for logits, without an adapter. Others, and more than
MOST sequences, run as they are. `DANLU_GRAPHS=off` records nothing.

Tested on a CPU, with a stand-in for the graph (tests/engine/test_graphs.py); never run on a GPU so far.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from danlu.kernels.gpu.batch import HEADER, SPLIT, PagedBatch

if TYPE_CHECKING:
    from danlu.engine.batch import Batch

MOST = 256  # sequences; with more of them kernels run longer than their launches take; not tuned

Compute = Callable[[], Tensor]
Record = Callable[[Compute], Compute]  # from what is to be computed, to what computes it again in the same memory

log = logging.getLogger("danlu")


class Inputs(NamedTuple):
    """What a forward pass over the cache reads of a step, on the device."""

    ids: Tensor  # [T]
    positions: Tensor  # [T]
    slots: Tensor  # [T], -1 where nothing is kept
    paged: PagedBatch


class Shape(NamedTuple):
    rows: int
    splits: int  # of SPLIT keys that the longest sequence may have

    @staticmethod
    def of(batch: Batch) -> Shape | None:
        """The smallest that holds the step; None for a step that is not recorded."""
        spans = batch.spans
        if not 0 < len(spans) == len(batch.ids) <= MOST or batch.hidden_rows:
            return None
        if any(span.adapter is not None for span in spans):
            return None
        longest = max(span.length for span in spans)
        return Shape(_power_of_two(len(spans)), _power_of_two(-(-longest // SPLIT)))


class DecodeGraphs:
    """The recorded steps of one forward pass over one cache. `forward` mutates the cache and nothing else."""

    def __init__(
        self, forward: Callable[[Inputs], Tensor], block_size: int, device: torch.device, record: Record
    ) -> None:
        self._forward, self._block_size, self._device, self._record = forward, block_size, device, record
        self._steps: dict[Shape, _Step] = {}
        self._broken = False

    def run(self, batch: Batch) -> Tensor | None:
        """The last hidden state of every row, [T, D], until the next call; None for a step that is not recorded."""
        shape = Shape.of(batch)
        if shape is None or self._broken:
            return None
        step = self._steps.get(shape)
        fresh = step is None
        if step is None:
            step = self._steps[shape] = _Step(shape, self._block_size, self._device)
        step.fill(batch)
        if step.play is None and not fresh:
            step.play = self._recorded(step.inputs)
        hidden = step.play() if step.play is not None else self._forward(step.inputs)
        return hidden[: len(batch.ids)]

    def _recorded(self, inputs: Inputs) -> Compute | None:
        try:
            return self._record(lambda: self._forward(inputs))
        except RuntimeError as error:
            self._broken = True
            reason = (str(error).splitlines() or [""])[0]
            log.warning("decoding steps are not recorded (%s); every kernel is launched, which is slower", reason)
            return None


class _Step:
    """The inputs of all steps of one shape, in memory that stays where it is."""

    def __init__(self, shape: Shape, block_size: int, device: torch.device) -> None:
        self._block_size = block_size
        width = -(-shape.splits * SPLIT // block_size)
        self._per_token = torch.zeros(3, shape.rows, dtype=torch.int64, device=device)
        self._lines = torch.zeros(shape.rows, HEADER + width, dtype=torch.int32, device=device)
        self._host = torch.zeros(self._lines.shape, dtype=torch.int32)
        ids, positions, slots = self._per_token
        self.inputs = Inputs(ids, positions, slots, PagedBatch.of_decoding(self._lines, shape.splits))
        self.play: Compute | None = None

    def fill(self, batch: Batch) -> None:
        n, rows = len(batch.ids), len(self._lines)
        padding = [0] * (rows - n)
        slots = batch.slots(self._block_size)
        numbers = [[*batch.ids, *padding], [*batch.positions, *padding], [*slots, *(-1 for _ in padding)]]
        self._per_token.copy_(torch.tensor(numbers))
        lines = self._host.numpy()
        for row, span in enumerate(batch.spans):
            table = span.table[: -(-span.length // self._block_size)]
            lines[row, :HEADER] = span.row, 1, span.length
            lines[row, HEADER : HEADER + len(table)] = table
        lines[n:, :HEADER] = 0
        self._lines.copy_(self._host)


def cuda_recorder(device: torch.device) -> Record | None:
    """Records with CUDA graphs that share one pool; None where there are none, or they are switched off."""
    if device.type != "cuda" or os.environ.get("DANLU_GRAPHS", "").lower() in ("off", "0", "no"):
        return None
    pool = torch.cuda.graph_pool_handle()

    def record(compute: Compute) -> Compute:
        graph = torch.cuda.CUDAGraph()
        # Other threads, which lay out an adapter, may ask for memory meanwhile.
        with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = compute()

        def play() -> Tensor:
            graph.replay()
            return result

        return play

    return record


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
