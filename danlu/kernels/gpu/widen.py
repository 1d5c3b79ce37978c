"""Whole numbers of 8 and 4 bits as floats: in registers and, where there are many rows to multiply, in memory.

The instruction that converts a whole number to a float runs at an eighth of the rate of an addition, and a decoding
step would need one for each weight of the model. But the bits of 2^23 = 8388608.0 are 0x4B000000, and the last of them
count ones: a number written into the bits of such a float is added to it, and a subtraction gives it as a float.

    0x4B000000 | n                2^23 + n          for n of 0 to 2^23 - 1: here a nibble, where it lies in its word
    0x4B400000 + n                1.5 * 2^23 + n    for n below zero as well

    word    | n7 | n6 | n5 | n4 | n3 | n2 | n1 | n0 |      eight values of four bits, kept as value + 8
    word & 0x0F00, in a float     2^23 + 16^2 n2           no shift: the 16^2 goes into what it is multiplied with
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from danlu.kernels.gpu.launch import early, wait_turn

TILE = (16, 256)  # rows and columns that one program writes; tuned on an H200


def widen(weight: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    """int8 [N, K] or int32 [N, K / 8], with scale and zero [N, G] -> [N, K] in `dtype`. What is given was checked."""
    four_bits = weight.dtype == torch.int32
    n_rows, width = len(weight), weight.shape[1] * (8 if four_bits else 1)
    wide = torch.empty(n_rows, width, dtype=dtype, device=weight.device)
    _widen[triton.cdiv(n_rows, TILE[0]), triton.cdiv(width, TILE[1])](
        wide, weight, scale, scale if zero is None else zero, n_rows, width,
        FOUR_BITS=four_bits, GROUP=width // scale.shape[1] if scale.shape[1] > 1 else 0, ZERO=zero is not None,
        BLOCK_N=TILE[0], BLOCK_K=TILE[1], **early(weight),
    )  # fmt: skip
    return wide


@triton.jit
def to_float(values):
    """int32 -> float32, for whole numbers of less than 22 bits and a sign."""
    return (values + 0x4B400000).to(tl.float32, bitcast=True) - 12582912.0


@triton.jit
def nibble(words, zeros, WHICH: tl.constexpr, ZERO: tl.constexpr):
    """Value WHICH of every word, less its zero point (float32), times 16^(WHICH % 4)."""
    POWER: tl.constexpr = 16 ** (WHICH % 4)
    low = words >> 16 if WHICH >= 4 else words
    lifted = ((low & (15 * POWER)) | 0x4B000000).to(tl.float32, bitcast=True)
    if ZERO:
        return lifted - (8388608.0 + 8.0 * POWER + zeros * POWER)
    else:  # noqa: RET505  (Triton takes one return a branch)
        return lifted - (8388608.0 + 8.0 * POWER)


@triton.jit
def widened(
    weight, scale, zero, n, real, start, end, width,
    FOUR_BITS: tl.constexpr, GROUP: tl.constexpr, ZERO: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Columns start .. end of the rows `n` of W, float32 [BLOCK_N, BLOCK_K]; without the scale where a row has one.

    GROUP columns share a scale, a multiple of 32; 0: all of a row.
    """
    if FOUR_BITS:
        word = start // 8 + tl.arange(0, BLOCK_K // 8)
        word_mask = real[:, None] & (word < end // 8)[None, :]
        words = tl.load(weight + n[:, None] * (width // 8) + word[None, :], mask=word_mask, other=0)
        nibbles = (words[:, :, None] >> (tl.arange(0, 8) * 4)[None, None, :]) & 15  # [N, K / 8, 8]
        values = tl.reshape(nibbles - 8, [BLOCK_N, BLOCK_K])
    else:
        k = start + tl.arange(0, BLOCK_K)
        mask = real[:, None] & (k < end)[None, :]
        values = tl.load(weight + n[:, None] * width + k[None, :], mask=mask, other=0).to(tl.int32)
    if GROUP:
        group = (start + tl.arange(0, BLOCK_K // 32) * 32) // GROUP
        at = n[:, None] * (width // GROUP) + group[None, :]
        group_mask = real[:, None] & (group < width // GROUP)[None, :]
        numbers = tl.reshape(values, [BLOCK_N, BLOCK_K // 32, 32])
        if ZERO:
            numbers = numbers - tl.load(zero + at, mask=group_mask, other=0).to(tl.int32)[:, :, None]
        scales = tl.load(scale + at, mask=group_mask, other=0.0).to(tl.float32)
        wide = tl.reshape(to_float(numbers) * scales[:, :, None], [BLOCK_N, BLOCK_K])
    else:
        if ZERO:
            values = values - tl.load(zero + n, mask=real, other=0).to(tl.int32)[:, None]
        wide = to_float(values)
    return wide


@triton.jit
def _widen(
    out, weight, scale, zero, n_rows, width,
    FOUR_BITS: tl.constexpr, GROUP: tl.constexpr, ZERO: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Program (rows, columns): a tile of W."""
    wait_turn(EARLY)
    n = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    real, start = n < n_rows, tl.program_id(1) * BLOCK_K
    tile = widened(weight, scale, zero, n, real, start, width, width, FOUR_BITS, GROUP, ZERO, BLOCK_N, BLOCK_K)
    if not GROUP:
        tile = tile * tl.load(scale + n, mask=real, other=0.0).to(tl.float32)[:, None]
    k = start + tl.arange(0, BLOCK_K)
    tl.store(out + n[:, None] * width + k[None, :], tile, mask=real[:, None] & (k < width)[None, :])
