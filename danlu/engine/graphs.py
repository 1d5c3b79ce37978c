"""Decoding steps on a GPU, recorded once and played back, and played ahead of their time.

A decoding step is a few hundred launches of kernels that run for microseconds each: a GPU that is told of them one by
one waits for Python most of the time. A CUDA graph is such a row of launches with all its arguments, recorded once and
started by a single call. What is recorded is fixed, addresses and shapes and numbers of programs, so a step is brought
into one of few shapes, powers of two:

    5 sequences, the longest of 700 tokens    ->    8 rows, 8 splits of 128 keys, tables of 64 blocks of 16 tokens

        ids, positions, slots   [8]            the step's five, then 0  0  -1      nothing is kept at slot -1
        lines                   [8, 3 + 64]    the step's five, then 0  0  0       no query, so no attention
        logits                  [8, V]         and found [2, 8], the best of each row and its token

Rows of padding are computed and dropped. No other row sees them, and as 16 is a power of two no product changes its
kind (kernels/gpu/matrix.py), one row apart, which is never padded: a row has the bits that it has without padding, as
far as torch's products keep theirs.

The first step of a shape runs like any other: it brings up kernels and libraries, which cannot be recorded. The second
is recorded. From then on a step is two copies into the same memory and one call. All graphs share one pool of memory:
what one of them leaves there is read before the next one is played.

A step ends by writing the inputs of the one after it over its own: each row's likeliest token, one place further
(kernels/gpu/best.py). Where the engine expects that step (`Batch.goes_on`), it is played at once, and what this one
found is read, judged and turned into text while the GPU is at work again:

    Python    fill, play 1, play 2 | wait 1, read | step's end, next step: it is the one expected | play 3 | wait 2, ...
    GPU              [ 1 ][ 2 ...................................................................][ 3 ..............

Should the next batch be another (an answer has ended, a request has come), what was played ahead is left unread. Its
keys and values went to slots that only its own sequences could have used, and whoever has those blocks next writes to
them later. An answer that ends takes nothing from the others: their rows of the step ahead are good.

Recorded are steps in which every sequence adds one token and asks for logits, without an adapter. Others, and more than
MOST sequences, run as they are. `DANLU_GRAPHS=off` records nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from danlu.engine.batch import Logits
from danlu.kernels.gpu.batch import HEADER, SPLIT, PagedBatch

if TYPE_CHECKING:
    from danlu.engine.batch import Batch

MOST = 256  # sequences; with more of them kernels run longer than their launches take; not tuned

Play = Callable[[], None]
Record = Callable[[Play], Play]  # from what is to be computed, to what computes it again in the same memory

log = logging.getLogger("danlu")


class Inputs(NamedTuple):
    """What a forward pass over the cache reads of a step, on the device."""

    ids: Tensor  # [T]
    positions: Tensor  # [T]
    slots: Tensor  # [T], -1 where nothing is kept
    paged: PagedBatch


class Found(NamedTuple):
    """What a step leaves on the device."""

    logits: Tensor  # [T, V]
    best: Tensor  # int32 [2, T]: the bits of the largest logit as a float32, and its token


class Shape(NamedTuple):
    rows: int
    splits: int  # of SPLIT keys that the longest sequence may have

    @staticmethod
    def of(batch: Batch) -> Shape | None:
        """The smallest that holds the step; None for a step that is not recorded."""
        spans = batch.spans
        if not 0 < len(spans) == len(batch.ids) == len(batch.rows) <= MOST:
            return None
        if any(span.adapter is not None for span in spans):
            return None
        longest = max(span.length for span in spans)
        return Shape(_power_of_two(len(spans)), _power_of_two(-(-longest // SPLIT)))


class DecodeGraphs:
    """The recorded steps of one model over one cache.

    `decode` computes a step and leaves the inputs of the one after it (gpu/best.py); beyond these and the cache it
    mutates nothing.
    """

    def __init__(
        self, decode: Callable[[Inputs], Found], block_size: int, device: torch.device, record: Record
    ) -> None:
        self._decode, self._block_size, self._device, self._record = decode, block_size, device, record
        self._steps: dict[Shape, _Step] = {}
        self._logits: dict[int, Tensor] = {}  # by rows: the memory that steps of so many leave them in
        self._ahead: _Ahead | None = None
        self._broken = False

    def run(self, batch: Batch) -> Logits | None:
        """Fills the cache; the logits of every row, until the next call. None for a step that is not recorded."""
        ahead, self._ahead = self._ahead, None
        shape = Shape.of(batch)
        if shape is None or self._broken:
            return None
        n_rows = len(batch.ids)
        rows = ahead.rows_of(batch) if ahead is not None else None
        if ahead is not None and rows is not None:
            step = ahead.step
        else:
            step, rows = self._start(batch, shape), list(range(n_rows))
        wait = step.fetch()
        if batch.goes_on and step.left > 0 and step.play is not None and len(rows) == step.n_rows:
            step.left -= 1
            step.play()
            self._ahead = _Ahead(step, batch, rows, self._block_size)
        best, ids = wait()
        if self._ahead is not None:
            self._ahead.ids = ids
        found = Logits(step.logits[: step.n_rows] if batch.values else None, best, ids)
        return found.pick(rows)

    def _start(self, batch: Batch, shape: Shape) -> _Step:
        step = self._steps.get(shape)
        fresh = step is None
        if step is None:
            step = self._steps[shape] = _Step(shape, self._block_size, self._device)
        step.fill(batch)
        if step.play is None and not fresh:
            step.play = self._recorded(step)
        if step.play is not None:
            step.play()
        else:
            self._compute(step)
        return step

    def _compute(self, step: _Step) -> None:
        found = self._decode(step.inputs)
        n_rows = len(found.logits)
        if n_rows not in self._logits:
            self._logits[n_rows] = torch.empty_like(found.logits)
        step.logits = self._logits[n_rows].copy_(found.logits)  # a graph's own would be memory that no other could use
        step.best.copy_(found.best)

    def _recorded(self, step: _Step) -> Play | None:
        try:
            return self._record(lambda: self._compute(step))
        except RuntimeError as error:
            self._broken = True
            reason = (str(error).splitlines() or [""])[0]
            log.warning("decoding steps are not recorded (%s); every kernel is launched, which is slower", reason)
            return None


class _Step:
    """The inputs and results of all steps of one shape, in memory that stays where it is."""

    logits: Tensor

    def __init__(self, shape: Shape, block_size: int, device: torch.device) -> None:
        self._block_size, self._longest = block_size, shape.splits * SPLIT
        width = -(-self._longest // block_size)
        self._per_token = torch.zeros(3, shape.rows, dtype=torch.int64, device=device)
        self._lines = torch.zeros(shape.rows, HEADER + width, dtype=torch.int32, device=device)
        self._host = torch.zeros(self._lines.shape, dtype=torch.int32)
        ids, positions, slots = self._per_token
        self.inputs = Inputs(ids, positions, slots, PagedBatch.of_decoding(self._lines, shape.splits))
        self.play: Play | None = None
        self.best = torch.zeros(2, shape.rows, dtype=torch.int32, device=device)
        self._read = torch.zeros(2, shape.rows, dtype=torch.int32, pin_memory=device.type == "cuda")
        self.n_rows = 0  # that are no padding
        self.left = 0  # how many more steps the tables and lengths on the device have room for

    def fill(self, batch: Batch) -> None:
        n, rows, size = len(batch.ids), len(self._lines), self._block_size
        padding = [0] * (rows - n)
        numbers = [[*batch.ids, *padding], [*batch.positions, *padding], [*batch.slots(size), *(-1 for _ in padding)]]
        self._per_token.copy_(torch.tensor(numbers))
        lines = self._host.numpy()
        width = lines.shape[1] - HEADER
        left = self._longest
        for row, span in enumerate(batch.spans):
            table = span.table[:width]
            lines[row, :HEADER] = span.row, 1, span.length
            lines[row, HEADER : HEADER + len(table)] = table
            left = min(left, len(table) * size - span.length, self._longest - span.length)
        lines[n:, :HEADER] = 0
        self._lines.copy_(self._host)
        self.n_rows, self.left = n, left

    def fetch(self) -> Callable[[], tuple[list[float], list[int]]]:
        """Bring over what the last play found, when it is there; called, this waits for it.

        Returns the largest logit of each row and its token.
        """
        self._read.copy_(self.best, non_blocking=True)
        arrived = None
        if self.best.device.type == "cuda":
            arrived = torch.cuda.current_stream(self.best.device).record_event()

        def wait() -> tuple[list[float], list[int]]:
            if arrived is not None:
                arrived.synchronize()
            values, ids = self._read[:, : self.n_rows]
            return values.view(torch.float32).tolist(), ids.tolist()

        return wait


class _Ahead:
    """The step after `batch`, which is being played: what each of its rows is about.

    `rows`: the row of each sequence of the batch in the step, all of them; they may lie in another order.
    """

    def __init__(self, step: _Step, batch: Batch, rows: list[int], block_size: int) -> None:
        self.step, self._block_size = step, block_size
        self.ids: list[int] = []  # of its tokens, when they are known
        order = sorted(range(len(rows)), key=rows.__getitem__)  # of each row, its sequence in the batch
        self._positions = [batch.positions[i] + 1 for i in order]
        self._tables = [batch.spans[i].table[: position // block_size + 1]
                        for i, position in zip(order, self._positions, strict=True)]  # fmt: skip
        self._rows = {
            _slot(table, position, block_size): row
            for row, (table, position) in enumerate(zip(self._tables, self._positions, strict=True))
        }

    def rows_of(self, batch: Batch) -> list[int] | None:
        """The row of each sequence of `batch` in this step; None when one of them is not in it."""
        rows = [self._rows.get(slot, -1) for slot in batch.slots(self._block_size)]
        for i, row in enumerate(rows):
            if row < 0 or (self.ids[row], self._positions[row]) != (batch.ids[i], batch.positions[i]):
                return None
            if batch.spans[i].table[: len(self._tables[row])] != self._tables[row]:
                return None
        return rows


def _slot(table: list[int], position: int, block_size: int) -> int:
    return table[position // block_size] * block_size + position % block_size


def cuda_recorder(device: torch.device) -> Record | None:
    """Records with CUDA graphs that share one pool; None where there are none, or they are switched off."""
    if device.type != "cuda" or os.environ.get("DANLU_GRAPHS", "").lower() in ("off", "0", "no"):
        return None
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)  # torch's own is of the first device used

    def record(compute: Play) -> Play:
        graph = torch.cuda.CUDAGraph()
        # Other threads, which lay out an adapter, may ask for memory meanwhile.
        with torch.cuda.device(device), torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            compute()
        return graph.replay

    return record


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
