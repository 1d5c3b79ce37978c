"""y = x W^T with W in 8 or 4 bits: read as it is stored, widened in registers, never written out wide.

    x [M, K]  float     W [N, K] int8, scale [N, 1]      or int32 [N, K / 8], eight values each, scale [N, K / 32]

                 K -> BLOCK_K at a time                            one program = one tile of y
            +--------------------+         W tile [BLOCK_N, BLOCK_K]:
       M    |  x tile            |  dot      8 bits   value                      scale: once, on the sum
            +--------------------+           4 bits   (nibble - 8) * scale       scale: every 32 columns
                                           both in x's dtype, the sum in float32

Decoding multiplies a few rows with every weight of the model, so what counts is to read each weight once and to keep
the whole GPU reading: for M <= 16 the tile has 16 rows, the least that the matrix unit takes, few columns, and K is
split among programs, SPLIT_K columns each. The parts are added by a second kernel, in the order of K. Above that the
tiles are larger and K is not split.

How K is split follows from K alone: within each of the two kinds a row of y does not depend on the other rows of x.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from danlu.kernels.gpu.checks import FLOATS, check, on, same_device

FEW_ROWS = 16
SPLIT_K = 1024  # columns of one program: a 2048 x 2048 matrix is 64 x 2 programs; not tuned
GROUP = 32  # of 4 bits
UNSPLIT = 1 << 30
# Tiles in M, N and K, and warps; not tuned. 16 in M is the least that the matrix unit takes.
SMALL, LARGE, SMALL_FLOAT32 = (16, 32, 128, 4), (64, 128, 64, 8), (16, 32, 64, 4)


def quantized_linear_reference(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    values = weight
    if weight.dtype == torch.int32:
        shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=weight.device)
        values = (((weight[..., None] >> shifts) & 15) - 8).flatten(1)
    wide = values.float() * scale.float().repeat_interleave(values.shape[1] // scale.shape[1], dim=1)
    return F.linear(x.float(), wide, None if bias is None else bias.float()).to(x.dtype)


def quantized_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] times weight int8 [N, K] or int32 [N, K / 8], with its scale and bias [N] -> [..., N] in x's dtype."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    n_rows, width = rows.shape
    four_bits = weight.dtype == torch.int32
    n_columns = weight.shape[0]
    check("x", rows, (n_rows, width))
    check("weight", weight, (n_columns, width // 8 if four_bits else width), (torch.int8, torch.int32))
    if four_bits and width % GROUP:
        raise ValueError(f"x has {width} columns, which is not a multiple of {GROUP}")
    check("scale", scale, (n_columns, width // GROUP if four_bits else 1), FLOATS)
    if bias is not None:
        check("bias", bias, (n_columns,), FLOATS)
    same_device(x, weight=weight, scale=scale, bias=bias)
    y = torch.empty(n_rows, n_columns, dtype=x.dtype, device=x.device)
    if y.numel():
        with on(x):
            _multiply(y, rows, weight, scale, bias)
    return y.view(*x.shape[:-1], n_columns)


def _multiply(y: Tensor, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
    n_rows, width = x.shape
    n_columns = len(weight)
    few = n_rows <= FEW_ROWS
    n_splits = triton.cdiv(width, SPLIT_K) if few else 1
    block_m, block_n, block_k, warps = SMALL if few else LARGE
    if x.dtype == torch.float32:  # has no matrix unit: a large tile does not fit the registers
        block_m, block_n, block_k, warps = SMALL_FLOAT32
    parts = y
    if n_splits > 1:
        parts = torch.empty(n_splits, n_rows, n_columns, dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(n_rows, block_m), triton.cdiv(n_columns, block_n), n_splits)
    _multiply_tile[grid](
        parts, x, weight, scale, scale if bias is None else bias, n_rows, n_columns, width,
        FOUR_BITS=weight.dtype == torch.int32, BIAS=bias is not None, PARTIAL=n_splits > 1,
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k, SPLIT=SPLIT_K if few else UNSPLIT,
        num_warps=warps,
    )  # fmt: skip
    if n_splits > 1:
        _add_parts[n_rows, triton.cdiv(n_columns, 256)](
            y, parts, scale if bias is None else bias, n_rows, n_columns, n_splits, BIAS=bias is not None, BLOCK=256
        )


@triton.jit(do_not_specialize=["n_rows"])
def _multiply_tile(
    out, x, weight, scale, bias, n_rows, n_columns, width,
    FOUR_BITS: tl.constexpr, BIAS: tl.constexpr, PARTIAL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Program (rows, columns, split): a tile of y, or with PARTIAL its part over SPLIT columns of x."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    begin = tl.program_id(2) * SPLIT
    end = tl.minimum(begin + SPLIT, width)
    acc = tl.full([BLOCK_M, BLOCK_N], 0.0, tl.float32)
    for start in range(begin, end, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        x_mask = (m < n_rows)[:, None] & (k < end)[None, :]
        x_tile = tl.load(x + m.to(tl.int64)[:, None] * width + k[None, :], mask=x_mask, other=0.0)  # [M, K]
        if FOUR_BITS:
            word = start // 8 + tl.arange(0, BLOCK_K // 8)
            word_mask = (n < n_columns)[:, None] & (word < end // 8)[None, :]
            words = tl.load(weight + n[:, None] * (width // 8) + word[None, :], mask=word_mask, other=0)
            shift = tl.arange(0, 8) * 4
            nibbles = (words[:, :, None] >> shift[None, None, :]) & 15  # [N, K / 8, 8]
            group = start // 32 + tl.arange(0, BLOCK_K // 32)
            group_mask = (n < n_columns)[:, None] & (group < end // 32)[None, :]
            scales = tl.load(scale + n[:, None] * (width // 32) + group[None, :], mask=group_mask, other=0.0)
            values = tl.reshape(nibbles - 8, [BLOCK_N, BLOCK_K // 32, 32]).to(tl.float32)
            wide = tl.reshape(values * scales.to(tl.float32)[:, :, None], [BLOCK_N, BLOCK_K])
        else:
            mask = (n < n_columns)[:, None] & (k < end)[None, :]
            wide = tl.load(weight + n[:, None] * width + k[None, :], mask=mask, other=0).to(tl.float32)
        acc = tl.dot(x_tile, tl.trans(wide.to(x_tile.dtype)), acc, input_precision="ieee")

    mask = (m < n_rows)[:, None] & (n < n_columns)[None, :]
    if not FOUR_BITS:
        acc = acc * tl.load(scale + n, mask=n < n_columns, other=0.0).to(tl.float32)[None, :]
    if BIAS and not PARTIAL:
        acc = acc + tl.load(bias + n, mask=n < n_columns, other=0.0).to(tl.float32)[None, :]
    row = tl.program_id(2).to(tl.int64) * n_rows + m
    tl.store(out + row[:, None] * n_columns + n[None, :], acc, mask=mask)


@triton.jit(do_not_specialize=["n_rows"])
def _add_parts(out, parts, bias, n_rows, n_columns, n_splits, BIAS: tl.constexpr, BLOCK: tl.constexpr):
    """Program (row, columns): the sum over the splits of K, from the first to the last."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < n_columns
    total = tl.full([BLOCK], 0.0, tl.float32)
    for split in range(n_splits):
        total += tl.load(parts + (row + split * n_rows) * n_columns + n, mask=inside, other=0.0)
    if BIAS:
        total += tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * n_columns + n, total, mask=inside)
