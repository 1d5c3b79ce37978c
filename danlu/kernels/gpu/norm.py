"""The residual sum and the norm behind it in one pass.

    x = x + delta           what a layer adds to the stream
    y = x / sqrt(mean(x^2) + eps) * weight                  RMSNorm, arXiv:1910.07467, eq. 4

    x, delta   [T, D]     one program = one row, all of D in registers: read once, summed, squared, written
    y          [T, D]

Apart they read and write the row five times; together it is read twice (x, delta) and written twice (x, y). The sum is
rounded to the stream's dtype before it is normed, as it is when the two are apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from danlu.kernels.gpu.checks import check, same_device
from danlu.kernels.gpu.launch import early, on, power_of_two, wait_turn


def add_rms_norm_reference(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    if delta is not None:
        x += delta
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def add_rms_norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Add `delta` [..., D] to `x` [..., D] in place, where there is one; return RMSNorm(x) * weight, [..., D]."""
    width = x.shape[-1]
    check("x", x, tuple(x.shape))
    check("weight", weight, (width,))
    if delta is not None:
        check("delta", delta, tuple(x.shape), (x.dtype,))
    same_device(x, delta=delta, weight=weight)
    out = torch.empty_like(x)
    if out.numel():
        block = power_of_two(width)
        with on(x):
            _add_rms_norm[(out.numel() // width,)](
                x, x if delta is None else delta, weight, out, width, eps,
                ADD=delta is not None, BLOCK=block, num_warps=min(16, max(1, block // 512)), **early(x),
            )  # fmt: skip
    return out


@triton.jit
def _add_rms_norm(x, delta, weight, out, width, eps, ADD: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    wait_turn(EARLY)
    column = tl.arange(0, BLOCK)
    inside = column < width
    at = tl.program_id(0).to(tl.int64) * width + column
    row = tl.load(x + at, mask=inside, other=0.0)
    if ADD:
        total = row.to(tl.float32) + tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
        row = total.to(row.dtype)
        tl.store(x + at, row, mask=inside)
    wide = row.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / width + eps)
    tl.store(out + at, wide * scale * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32), mask=inside)
