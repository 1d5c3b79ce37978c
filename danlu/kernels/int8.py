"""Int8 weights, one scale per output channel; activations stay floating point ("W8A16").

A weight matrix `w` [N, K] is stored as signed bytes `q` [N, K] and a float scale `s` [N]:

    s[n] = max_k |w[n, k]| / 127        q[n, k] = round(w[n, k] / s[n])        w[n, k] ~ s[n] * q[n, k]

Symmetric (zero stays zero) and per row, because then the scale leaves the sum over k,

    y[m, n] = sum_k x[m, k] * s[n] * q[n, k] + b[n] = s[n] * (x q^T)[m, n] + b[n],

and one multiplication per output repairs the scale: no scales inside the inner loop, unlike group-wise formats.
The error of a weight is at most s[n] / 2, that is 1/254 of the largest weight of its row.

Worked example, 2 x 2:

    w = [[ 0.5, -1.27],      s = [0.01,  max|w| / 127 of each row
         [ 2.54, 0.00]]           0.02]
    q = [[50, -127], [127, 0]]
    x = [1, 2]:   x q^T = [50 - 254, 127] = [-204, 127],   y = [-2.04, 2.54]

Routes of `int8_linear`, for x [M, K] (all compute the same sum, in different precision):

| route     | when                              | arithmetic                                                   |
|-----------|-----------------------------------|--------------------------------------------------------------|
| packed    | CPU, M <= 32, K and N fit the op  | x rounded to bfloat16, sum in float32, y rounded to bfloat16 |
| triton    | GPU, no gradient (gpu/matrix.py)  | q widened to x.dtype, sum and scale in float32               |
| widened   | everything else                   | q widened to x.dtype (exact up to 127), one ordinary GEMM    |

The packed route reads one byte per weight instead of four and so is the fast one where decoding is bound by
memory; it converts the bytes again for every few rows of x, so beyond some tens of rows the ordinary GEMM, which
pays the widening once, is faster. The border of 32 rows was measured on a CPU with AVX2; it is not tuned per
machine. `torch.ops.aten._weight_int8pack_mm` also takes float32, but has no vector code for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.kernels import gpu

PACKED_ROWS = 32  # above this many rows of x one widening and a GEMM is faster (measured on AVX2, not tuned)
INT8_MAX = 127  # -128 is left unused, so that the range is symmetric


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` [N, K] of any float dtype -> (int8 [N, K], float32 scale [N]).

    A row of zeros gets scale 1, so that nothing divides by zero and the row stays zero.
    """
    weight = weight.detach().float()
    scale = weight.abs().amax(dim=1) / INT8_MAX  # [N]
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    quantized = torch.round(weight / scale[:, None]).clamp_(-INT8_MAX, INT8_MAX)
    return quantized.to(torch.int8), scale


def dequantize_rows(weight: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """int8 [N, K] and scale [N] -> [N, K] in `dtype`. The definition of what the bytes mean."""
    return (weight.float() * scale.float()[:, None]).to(dtype)


def int8_linear_reference(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """What `int8_linear` computes, in the plainest words: dequantise, then a linear layer."""
    return F.linear(x, dequantize_rows(weight, scale, x.dtype), bias)


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] times weight int8 [N, K] with scale [N] and bias [N] -> [..., N] in x's dtype."""
    if gpu.enabled(x.device) and not x.requires_grad:
        return gpu.quantized_linear(x, weight, scale[:, None], bias)
    rows = x.reshape(-1, x.shape[-1])  # [M, K]
    if _packed_fits(rows, weight):
        # The op wants bfloat16 scales; ones are exact in it, and the true scale follows in x's precision.
        ones = torch.ones(weight.shape[0], dtype=torch.bfloat16)
        y = torch.ops.aten._weight_int8pack_mm(rows.to(torch.bfloat16), weight, ones).to(x.dtype)  # [M, N]
    else:
        y = F.linear(rows, weight.to(x.dtype))  # [M, N]
    y = y * scale.to(x.dtype)
    if bias is not None:
        y = y + bias.to(x.dtype)
    return y.view(*x.shape[:-1], weight.shape[0])


def int8_embedding(ids: Tensor, weight: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of a table: ids [...] of weight int8 [V, D] with scale [V] -> [..., D]. Only rows asked for are widened."""
    return (weight[ids].float() * scale[ids].float()[..., None]).to(dtype)  # [..., D]


def _packed_fits(rows: Tensor, weight: Tensor) -> bool:
    """The stock CPU kernel wants contiguous bytes; K in whole vectors is where its fast path is."""
    return (
        rows.device.type == "cpu"
        and 0 < rows.shape[0] <= PACKED_ROWS
        and weight.shape[1] % 32 == 0
        and weight.is_contiguous()
        and not rows.requires_grad  # the op has no backward
    )
