"""The likeliest token of every row, and the inputs of the step that follows from it.

    logits [R, V]     a row in parts of BLOCK: the largest of each, and where it is      one program a part
    found  [2, R]     the largest of the parts; of equal ones the first token            one program a row

A GPU that has found the token of a sequence knows all that the next step needs, if that step adds just this token: its
id, its position, one more than this one, and its slot, which the block table of the sequence has. `follow` writes these
over the inputs of the step, so that it can be played again before anybody has read what came of it (engine/graphs.py).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from danlu.kernels.gpu.batch import HEADER
from danlu.kernels.gpu.checks import check, same_device
from danlu.kernels.gpu.launch import early, on, power_of_two, wait_turn

BLOCK = 4096
BEFORE_TABLE = tl.constexpr(HEADER)


def best_tokens_reference(logits: Tensor) -> tuple[Tensor, Tensor]:
    values = logits.float().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    values, ids = values.max(dim=1)
    return values, ids


def best_tokens(logits: Tensor) -> Tensor:
    """logits [R, V] -> int32 [2, R]: the bits of the largest of each row as a float32, and its token.

    A row with a NaN counts as one with an infinity. Of equal logits the first token is taken.
    """
    n_rows, vocabulary = logits.shape
    check("logits", logits, (n_rows, vocabulary))
    found = torch.empty(2, n_rows, dtype=torch.int32, device=logits.device)
    n_parts = triton.cdiv(vocabulary, BLOCK)
    parts = torch.empty(2, n_rows, n_parts, dtype=torch.int32, device=logits.device)
    if n_rows:
        with on(logits):
            _best_of_part[n_rows, n_parts](
                parts.view(torch.float32)[0], parts[1], logits, vocabulary, BLOCK=BLOCK, **early(logits)
            )
            _best_of_parts[(n_rows,)](
                found.view(torch.float32)[0], found[1], parts.view(torch.float32)[0], parts[1], n_parts,
                BLOCK=power_of_two(n_parts), **early(logits),
            )  # fmt: skip
    return found


def follow_reference(found: Tensor, ids: Tensor, positions: Tensor, slots: Tensor, lines: Tensor, page: int) -> None:
    ids.copy_(found[1])
    positions += 1
    for row, (count, position) in enumerate(zip(lines[:, 1].tolist(), positions.tolist(), strict=True)):
        block = int(lines[row, HEADER + position // page]) if HEADER + position // page < lines.shape[1] else 0
        if count:
            slots[row] = block * page + position % page
    lines[:, 2] += lines[:, 1]


def follow(found: Tensor, ids: Tensor, positions: Tensor, slots: Tensor, lines: Tensor, page: int) -> None:
    """From the inputs of a step to those of the next: int64 ids, positions, slots [R] and lines [R, 3 + W], in place.

    Row i is the one row of line i. A line without rows keeps its slot. A position behind the block table has a slot of
    block 0: whoever plays on sees to it that the table is long enough.
    """
    n_rows = len(ids)
    check("found", found, (2, n_rows), (torch.int32,))
    for name, tensor in (("ids", ids), ("positions", positions), ("slots", slots)):
        check(name, tensor, (n_rows,), (torch.int64,))
    check("lines", lines, (n_rows, None), (torch.int32,))
    same_device(found, ids=ids, positions=positions, slots=slots, lines=lines)
    if n_rows:
        with on(found):
            _follow[(n_rows,)](found[1], ids, positions, slots, lines, lines.stride(0), PAGE=page, **early(found))


@triton.jit(do_not_specialize_on_alignment=["ids"])
def _best_of_part(values, ids, logits, vocabulary, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """Program (row, part)."""
    wait_turn(EARLY)
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = part * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + row * vocabulary + token, mask=token < vocabulary, other=float("-inf")).to(tl.float32)
    x = tl.where(x == x, x, float("inf"))
    top, at = tl.max(x, axis=0, return_indices=True)
    to = row * tl.num_programs(1) + part
    tl.store(values + to, top)
    tl.store(ids + to, part * BLOCK + at)


@triton.jit(do_not_specialize=["n_parts"], do_not_specialize_on_alignment=["ids", "part_ids"])
def _best_of_parts(values, ids, part_values, part_ids, n_parts, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """Program (row)."""
    wait_turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, BLOCK)
    x = tl.load(part_values + row * n_parts + part, mask=part < n_parts, other=float("-inf"))
    top, at = tl.max(x, axis=0, return_indices=True)
    tl.store(values + row, top)
    tl.store(ids + row, tl.load(part_ids + row * n_parts + at))


@triton.jit(do_not_specialize=["width"], do_not_specialize_on_alignment=["found", "positions", "slots", "lines"])
def _follow(found, ids, positions, slots, lines, width, PAGE: tl.constexpr, EARLY: tl.constexpr):
    """Program (row)."""
    wait_turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    line = lines + row * width
    tl.store(ids + row, tl.load(found + row).to(tl.int64))
    position = tl.load(positions + row) + 1
    tl.store(positions + row, position)
    if tl.load(line + 1) > 0:
        index = BEFORE_TABLE + position // PAGE
        block = tl.load(line + index, mask=index < width, other=0).to(tl.int64)
        tl.store(slots + row, block * PAGE + position % PAGE)
        tl.store(line + 2, tl.load(line + 2) + 1)
