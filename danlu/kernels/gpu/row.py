"""y = x W^T for one row: what a single stream decodes. Memory alone counts: each weight is read once and used once.

    x [K] float     W [N, K] float, int8, or int32 [N, K / 8] of eight values; scales and zeros as in matrix.py

    one program = BLOCK_N rows of W          columns -> BLOCK_K at a time

        W  [ . . . . . . . . ]  * x     every thread keeps sums of its own, [BLOCK_N, BLOCK_K] of them in float32,
           [ . . . . . . . . ]          and only at the end are they added along the row

There is no matrix unit in it (a tile of 16 rows would be 15 of padding), no split of K and no second kernel. The order
of the sum follows from K and the kind of the weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from danlu.kernels.gpu.checks import FLOATS, check, same_device
from danlu.kernels.gpu.launch import early, on, power_of_two, wait_turn
from danlu.kernels.gpu.widen import nibble, to_float

# Rows and columns of W that a program reads at once, and warps, by bits of a weight; tuned on an H200.
TILES = {32: (2, 1024, 8), 16: (2, 2048, 8), 8: (4, 2048, 4), 4: (4, 2048, 4)}


def linear_row_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)


def linear_row(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] of one row times weight [N, K] of a float dtype, plus bias [N] -> [..., N] in x's dtype."""
    n_columns, width = weight.shape
    row = x.reshape(-1, x.shape[-1])
    check("x", row, (1, width))
    check("weight", weight, (n_columns, width))
    if bias is not None:
        check("bias", bias, (n_columns,), FLOATS)
    same_device(x, weight=weight, bias=bias)
    y = torch.empty(*x.shape[:-1], n_columns, dtype=x.dtype, device=x.device)
    if y.numel():
        with on(x):
            multiply_row(y, row, weight, None, None, bias)
    return y


def multiply_row(
    y: Tensor, x: Tensor, weight: Tensor, scale: Tensor | None, zero: Tensor | None, bias: Tensor | None
) -> None:
    """Fill y [1, N]; what is given has been checked."""
    n_columns, width = len(weight), x.shape[1]
    bits = 4 if weight.dtype == torch.int32 else 8 * weight.element_size()
    block_n, block_k, warps = TILES[bits]
    n_groups = scale.shape[1] if scale is not None else 1
    _multiply_row[(triton.cdiv(n_columns, block_n),)](
        y, x, weight, weight if scale is None else scale, weight if zero is None else zero,
        weight if bias is None else bias, n_columns,
        WIDTH=width, FOUR_BITS=bits == 4, SCALE=scale is not None, GROUP=width // n_groups if n_groups > 1 else 0,
        ZERO=zero is not None, BIAS=bias is not None,
        BLOCK_N=block_n, BLOCK_K=min(block_k, max(16, power_of_two(width))), num_warps=warps,
        **early(x),
    )  # fmt: skip


@triton.jit
def _multiply_row(
    y, x, weight, scale, zero, bias, n_columns,
    WIDTH: tl.constexpr, FOUR_BITS: tl.constexpr, SCALE: tl.constexpr, GROUP: tl.constexpr, ZERO: tl.constexpr,
    BIAS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program (columns of y): BLOCK_N of them. GROUP columns of W share a scale; 0: all of a row."""
    n = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    real = n < n_columns
    # In 4 bits a place of the tile is a word, eight neighbours in a row.
    EACH: tl.constexpr = 8 if FOUR_BITS else 1
    PLACES: tl.constexpr = BLOCK_K // EACH
    at = weight + n[:, None] * (WIDTH // EACH) + tl.arange(0, PLACES)[None, :]
    tile = tl.load(at, mask=real[:, None] & (tl.arange(0, PLACES) < WIDTH // EACH)[None, :], other=0)
    wait_turn(EARLY)  # the weights are nobody's result
    acc = tl.full([BLOCK_N, PLACES], 0.0, tl.float32)
    for start in tl.static_range(0, WIDTH // EACH, PLACES):
        place = start + tl.arange(0, PLACES)
        inside = place < WIDTH // EACH
        mask = real[:, None] & inside[None, :]
        if start:
            tile = tl.load(at + start, mask=mask, other=0)
        zeros = 0.0
        if ZERO:
            if GROUP:
                zeros = tl.load(zero + n[:, None] * (WIDTH // GROUP) + (place * EACH // GROUP)[None, :], mask, other=0)
            else:
                zeros = tl.load(zero + n, mask=real, other=0)[:, None]
            zeros = to_float(zeros.to(tl.int32))
        part = tl.full([BLOCK_N, PLACES], 0.0, tl.float32)
        for i in tl.static_range(EACH):
            own = tl.load(x + place * EACH + i, mask=inside, other=0.0).to(tl.float32)
            if FOUR_BITS:
                own = own * 16.0 ** -(i % 4)
                wide = nibble(tile, zeros, i, ZERO)
            elif SCALE:
                wide = to_float(tile.to(tl.int32)) - zeros
            else:
                wide = tile.to(tl.float32)
            part += wide * own[None, :]
        if GROUP:
            group_at = n[:, None] * (WIDTH // GROUP) + (place * EACH // GROUP)[None, :]
            part = part * tl.load(scale + group_at, mask=mask, other=0.0).to(tl.float32)
        acc += part
    total = tl.sum(acc, axis=1)
    if SCALE and not GROUP:
        total = total * tl.load(scale + n, mask=real, other=0.0).to(tl.float32)
    if BIAS:
        total += tl.load(bias + n, mask=real, other=0.0).to(tl.float32)
    tl.store(y + n, total, mask=real)
