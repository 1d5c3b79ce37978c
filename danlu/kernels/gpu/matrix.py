"""y = x W^T with W in 8 or 4 bits: read as it is stored, widened in registers, never written out wide.

    x [M, K]  float     W [N, K] int8 or int32 [N, K / 8], eight values each;     scale [N, G], zero int8 [N, G] or none

                 K -> BLOCK_K at a time                            one program = one tile of y
            +--------------------+         W tile [BLOCK_N, BLOCK_K], in x's dtype, the sum in float32
       M    |  x tile            |  dot      G = 1    value - zero              the scale: once, on the sum
            +--------------------+           G > 1    (value - zero) * scale    K / G columns share it, 32 or more

Decoding multiplies a few rows with every weight of the model, so what counts is to read each weight once and to keep
the whole GPU reading. A prompt multiplies many rows, and what counts is the matrix units. By the rows of x:

    1           no matrix unit at all; row.py
    2 .. 16     tiles of 16 rows, the least that the matrix unit takes, and few columns; K is split among programs,
                SPLIT_K columns each, and the parts are added by a second kernel, in the order of K
    17 .. 64    tiles of 64 rows, K is not split
    more        W is written out after all (widen.py), in pieces, and torch multiplies: its products are faster by more
                than the writing costs

How K is split follows from K alone: within each kind but the last a row of y does not depend on the other rows of x.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from danlu.kernels.gpu.checks import FLOATS, check, same_device
from danlu.kernels.gpu.launch import early, on, wait_turn
from danlu.kernels.gpu.row import multiply_row
from danlu.kernels.gpu.widen import widen, widened

FEW_ROWS, SOME_ROWS = 16, 64
SPLIT_K = 1024  # columns of one program: a 2048 x 2048 matrix is 32 x 2 programs
GROUP = 32  # columns that share a scale are a multiple of so many
UNSPLIT = 1 << 30
PIECE = 1 << 26  # weights that are written out at once
# Tiles in M, N and K, and warps; tuned on an H200. 16 in M is the least that the matrix unit takes. float32 has no
# matrix unit: a large tile does not fit the registers.
SMALL, LARGE, SMALL_FLOAT32 = (16, 64, 128, 8), (64, 64, 128, 4), (16, 32, 64, 4)


def quantized_linear_reference(
    x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    values = weight
    if weight.dtype == torch.int32:
        shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=weight.device)
        values = (((weight[..., None] >> shifts) & 15) - 8).flatten(1)
    group = values.shape[1] // scale.shape[1]
    wide = values.float()
    if zero is not None:
        wide = wide - zero.float().repeat_interleave(group, dim=1)
    wide = wide * scale.float().repeat_interleave(group, dim=1)
    return F.linear(x.float(), wide, None if bias is None else bias.float()).to(x.dtype)


def takes(weight: Tensor, scale: Tensor) -> bool:
    """Whether the columns that share a scale are as many as the kernels know."""
    width = weight.shape[1] * (8 if weight.dtype == torch.int32 else 1)
    return scale.shape[1] == 1 or width // scale.shape[1] % GROUP == 0


def quantized_linear(
    x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """x [..., K] times weight int8 [N, K] or int32 [N, K / 8], with scale and zero [N, G] and bias [N] -> [..., N]."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    n_rows, width = rows.shape
    n_columns, n_groups = len(weight), scale.shape[-1]
    check("x", rows, (n_rows, width))
    check(
        "weight", weight, (n_columns, width // 8 if weight.dtype == torch.int32 else width), (torch.int8, torch.int32)
    )
    if weight.dtype == torch.int32 and width % 8:
        raise ValueError(f"x has {width} columns, which is not a multiple of 8")
    if width % n_groups or (n_groups > 1 and width // n_groups % GROUP):
        raise ValueError(
            f"x has {width} columns for {n_groups} scales; each must have a multiple of {GROUP}, or all one"
        )
    check("scale", scale, (n_columns, n_groups), FLOATS)
    if zero is not None:
        check("zero", zero, (n_columns, n_groups), (torch.int8,))
    if bias is not None:
        check("bias", bias, (n_columns,), FLOATS)
    same_device(x, weight=weight, scale=scale, zero=zero, bias=bias)
    y = torch.empty(n_rows, n_columns, dtype=x.dtype, device=x.device)
    if y.numel():
        with on(x):
            multiply = multiply_row if n_rows == 1 else _multiply if n_rows <= SOME_ROWS else _multiply_wide
            multiply(y, rows, weight, scale, zero, bias)
    return y.view(*x.shape[:-1], n_columns)


def _multiply(y: Tensor, x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None) -> None:
    n_rows, width = x.shape
    n_columns, n_groups = scale.shape
    few = n_rows <= FEW_ROWS
    n_splits = triton.cdiv(width, SPLIT_K) if few else 1
    block_m, block_n, block_k, warps = SMALL if few else LARGE
    if x.dtype == torch.float32:
        block_m, block_n, block_k, warps = SMALL_FLOAT32
    parts = y
    if n_splits > 1:
        parts = torch.empty(n_splits, n_rows, n_columns, dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(n_rows, block_m), triton.cdiv(n_columns, block_n), n_splits)
    _multiply_tile[grid](
        parts, x, weight, scale, scale if zero is None else zero, scale if bias is None else bias,
        n_rows, n_columns, width,
        FOUR_BITS=weight.dtype == torch.int32, GROUP=width // n_groups if n_groups > 1 else 0, ZERO=zero is not None,
        BIAS=bias is not None, PARTIAL=n_splits > 1,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k, SPLIT=SPLIT_K if few else UNSPLIT,
        num_warps=warps, **early(x),
    )  # fmt: skip
    if n_splits > 1:
        _add_parts[n_rows, triton.cdiv(n_columns, 256)](
            y, parts, scale if bias is None else bias, n_rows, n_columns, n_splits, BIAS=bias is not None, BLOCK=256,
            **early(x),
        )  # fmt: skip


def _multiply_wide(
    y: Tensor, x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None
) -> None:
    step = max(1, PIECE // x.shape[1])
    for first in range(0, len(weight), step):
        part = slice(first, first + step)
        wide = widen(weight[part], scale[part], None if zero is None else zero[part], x.dtype)
        torch.mm(x, wide.t(), out=y[:, part])
    if bias is not None:
        y += bias


@triton.jit(do_not_specialize=["n_rows"])
def _multiply_tile(
    out, x, weight, scale, zero, bias, n_rows, n_columns, width,
    FOUR_BITS: tl.constexpr, GROUP: tl.constexpr, ZERO: tl.constexpr, BIAS: tl.constexpr, PARTIAL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Program (rows, columns, split): a tile of y, or with PARTIAL its part over SPLIT columns of x.

    GROUP columns of W share a scale; 0: all of a row.
    """
    wait_turn(EARLY)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    real = n < n_columns
    begin = tl.program_id(2) * SPLIT
    end = tl.minimum(begin + SPLIT, width)
    acc = tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32)
    for start in range(begin, end, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        x_mask = (m < n_rows)[:, None] & (k < end)[None, :]
        x_tile = tl.load(x + m.to(tl.int64)[:, None] * width + k[None, :], mask=x_mask, other=0.0)  # [M, K]
        tile = widened(weight, scale, zero, n, real, start, end, width, FOUR_BITS, GROUP, ZERO, BLOCK_N, BLOCK_K)
        acc = tl.dot(x_tile, tl.trans(tile.to(x_tile.dtype)), acc, input_precision="ieee")

    mask = (m < n_rows)[:, None] & real[None, :]
    if not GROUP:
        acc = acc * tl.load(scale + n, mask=real, other=0.0).to(tl.float32)[None, :]
    if BIAS and not PARTIAL:
        acc = acc + tl.load(bias + n, mask=real, other=0.0).to(tl.float32)[None, :]
    row = tl.program_id(2).to(tl.int64) * n_rows + m
    tl.store(out + row[:, None] * n_columns + n[None, :], acc, mask=mask)


@triton.jit(do_not_specialize=["n_rows"])
def _add_parts(
    out, parts, bias, n_rows, n_columns, n_splits, BIAS: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr
):
    """Program (row, columns): the sum over the splits of K, from the first to the last."""
    wait_turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < n_columns
    total = tl.full([BLOCK], 0.0, tl.float32)
    for split in range(n_splits):
        total += tl.load(parts + (row + split * n_rows) * n_columns + n, mask=inside, other=0.0)
    if BIAS:
        total += tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * n_columns + n, total, mask=inside)
