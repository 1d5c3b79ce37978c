"""Products with weights on a grid (grid.py); activations stay floating point ("W8A16", "W4A16").

    y[m, n] = sum_k x[m, k] s[n, g(k)] (q[n, k] - z[n, g(k)]) + b[n]

With one symmetric scale a row the scale leaves the sum, y = s[n] (x q^T)[m, n]: no scales inside the inner loop.

Worked example, 8 bits, 2 x 2:

    w = [[ 0.5, -1.27],      s = [0.01,  max|w| / 127 of each row
         [ 2.54, 0.00]]           0.02]
    q = [[50, -127], [127, 0]]
    x = [1, 2]:   x q^T = [50 - 254, 127] = [-204, 127],   y = [-2.04, 2.54]

Routes of `quantized_linear`, for x [M, K] (all compute the same sum, in different precision):

| route   | when                                        | arithmetic                                                   |
|---------|---------------------------------------------|--------------------------------------------------------------|
| triton  | GPU, no gradient (gpu/matrix.py)            | q - z, scaled, widened to x.dtype; the sum in float32        |
| packed  | CPU, a scale a row, M <= 32, sizes that fit | x rounded to bfloat16, sum in float32, y rounded to bfloat16 |
| rows    | a scale a row, else                         | q widened to x.dtype (exact up to 127), one ordinary GEMM    |
| widened | everything else                             | w widened to x.dtype, one ordinary GEMM                      |

The packed route reads one byte per weight instead of four and so is the fast one where decoding is bound by
memory; it converts the bytes again for every few rows of x, so beyond some tens of rows the ordinary GEMM, which
pays the widening once, is faster. The border of 32 rows was measured on a CPU with AVX2; it is not tuned per
machine. `torch.ops.aten._weight_int8pack_mm` also takes float32, but has no vector code for it.

These are the plain ones; fast is the compiled decoder (decoder.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.kernels import gpu
from danlu.kernels.grid import unpack, widen

PACKED_ROWS = 32  # above this many rows of x one widening and a GEMM is faster (measured on AVX2, not tuned)


def quantized_linear(
    x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """x [..., K] times weight int8 [N, K] or int32 [N, K / 8] -> [..., N] in x's dtype.

    scale [N, G], zero int8 [N, G], bias [N].
    """
    if not x.requires_grad and gpu.enabled(x.device) and gpu.takes(weight, scale):
        return gpu.quantized_linear(x, weight, scale, zero, bias)
    rows = x.reshape(-1, x.shape[-1])  # [M, K]
    if weight.dtype == torch.int8 and zero is None and scale.shape[1] == 1:
        y = _scaled_rows(rows, weight, scale[:, 0])
    else:
        y = F.linear(rows, widen(whole(weight), scale, zero, x.dtype))
    if bias is not None:
        y = y + bias.to(x.dtype)
    return y.view(*x.shape[:-1], weight.shape[0])


def quantized_embedding(
    ids: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Rows of a table: ids [...] of a weight like above -> [..., K]. Only rows asked for are widened."""
    flat = ids.reshape(-1)
    wide = widen(whole(weight[flat]), scale[flat], None if zero is None else zero[flat], dtype)
    return wide.view(*ids.shape, -1)


def whole(weight: Tensor) -> Tensor:
    """The whole numbers, int8 [N, K], of a weight that may be packed."""
    return unpack(weight) if weight.dtype == torch.int32 else weight


def _scaled_rows(rows: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    if _packed_fits(rows, weight):
        # The op wants bfloat16 scales; ones are exact in it, and the true scale follows in x's precision.
        ones = torch.ones(weight.shape[0], dtype=torch.bfloat16)
        y = torch.ops.aten._weight_int8pack_mm(rows.to(torch.bfloat16), weight, ones).to(rows.dtype)  # [M, N]
    else:
        y = F.linear(rows, weight.to(rows.dtype))  # [M, N]
    return y * scale.to(rows.dtype)


def _packed_fits(rows: Tensor, weight: Tensor) -> bool:
    """The stock CPU kernel wants contiguous bytes; K in whole vectors is where its fast path is."""
    return (
        rows.device.type == "cpu"
        and 0 < rows.shape[0] <= PACKED_ROWS
        and weight.shape[1] % 32 == 0
        and weight.is_contiguous()
        and not rows.requires_grad  # the op has no backward
    )
