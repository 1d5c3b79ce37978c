"""Int4 weights in groups of 32, one scale a group; 4.5 bits a weight with 16-bit scales.

A weight matrix `w` [N, K] is stored as whole numbers `q` [N, K] from -8 to 7 and a scale `s` [N, K / 32]:

    w[n, k] ~ s[n, k // 32] * q[n, k]

Symmetric: zero stays zero, and no offset is stored. Sixteen levels are few, so where the levels lie matters. The
obvious scale, max |w| / 7, wastes the level -8 and is ruled by the one largest weight. So a handful of scales are tried
for each group and the one with the smallest squared error is kept; no data is needed for that.

Worked example, one group (the other 28 weights are 0): w = [0.8, -0.4, 0.1, 0.3].
    s = -0.1 puts 0.8 on the level -8:   q = [-8, 4, -1, -3], error 0
    s = 0.8 / 7 = 0.114:                 q = [7, -4 (-3.5), 1 (0.9), 3 (2.6)], w' = [0.8, -0.457, 0.114, 0.343]

On disk eight values share an int32, value + 8 in four bits, the first in the lowest: the layout of compressed-tensors'
"pack-quantized". What is here is plain; fast are the compiled decoder on a CPU (decoder.py) and, for the linear layer
without a gradient on a GPU, gpu/matrix.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.kernels import gpu

GROUP = 32
LOW, HIGH = -8, 7
SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8)  # of the largest weight: clipping it a little serves the other 31; not tuned


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` [N, K] of any float dtype -> (int8 [N, K] from -8 to 7, float32 scale [N, K / 32]). K % 32 must be 0.

    Scales are rounded to float16 first, as they are stored; the values are the best for the rounded scale.
    """
    rows, columns = weight.shape
    groups = weight.detach().float().reshape(rows, columns // GROUP, GROUP)
    top = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True))  # [N, G, 1], with its sign
    best_error = torch.full_like(top, torch.inf)
    best_scale, best_values = torch.ones_like(top), torch.zeros_like(groups)
    for level in (-8, 7):
        for shrink in SHRINK:
            scale = (top * shrink / level).half().float()
            scale = torch.where(scale == 0, torch.ones_like(scale), scale)
            values = torch.round(groups / scale).clamp_(LOW, HIGH)
            error = (values * scale - groups).square().sum(dim=2, keepdim=True)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scale = torch.where(better, scale, best_scale)
            best_values = torch.where(better, values, best_values)
    return best_values.to(torch.int8).view(rows, columns), best_scale[..., 0]


def dequantize_groups(values: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """int8 [N, K] and scale [N, K / 32] -> [N, K] in `dtype`. The definition of what the numbers mean."""
    return (values.float() * scale.float().repeat_interleave(GROUP, dim=1)).to(dtype)


def pack_nibbles(values: Tensor) -> Tensor:
    """int8 [N, K] from -8 to 7 -> int32 [N, K / 8].

    >>> hex(pack_nibbles(torch.tensor([[-8, -7, 0, 7, -8, -8, -8, -8]], dtype=torch.int8)).item())
    '0xf810'
    """
    nibbles = (values.int() - LOW).view(values.shape[0], -1, 8)
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=values.device)
    return (nibbles << shifts).sum(dim=2, dtype=torch.int32)  # no two overlap, so the sum is an or; it may wrap


def unpack_nibbles(packed: Tensor, out: Tensor | None = None) -> Tensor:
    """int32 [N, K / 8] -> int8 [N, K] from -8 to 7; in the memory of `out` when given, int8 [N, K] and contiguous."""
    pairs = packed.contiguous().view(torch.uint8)  # [N, K / 2]; the lowest byte first, as on every machine of today
    values = torch.empty(*pairs.shape, 2, dtype=torch.uint8, device=packed.device) if out is None else out
    values = values.view(torch.uint8).view(*pairs.shape, 2)
    torch.bitwise_and(pairs, 15, out=values[..., 0])
    torch.bitwise_right_shift(pairs, 4, out=values[..., 1])
    return values.flatten(1).view(torch.int8).add_(LOW)


def int4_linear(x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] times packed int32 [N, K / 8] with scale [N, K / 32] and bias [N] -> [..., N] in x's dtype."""
    if gpu.enabled(x.device) and not x.requires_grad:
        return gpu.quantized_linear(x, packed, scale, bias)
    weight = dequantize_groups(unpack_nibbles(packed), scale, x.dtype)
    return F.linear(x, weight, None if bias is None else bias.to(x.dtype))


def int4_embedding(ids: Tensor, packed: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of a table: ids [...] -> [..., D]. Only rows asked for are unpacked."""
    flat = ids.reshape(-1)
    return dequantize_groups(unpack_nibbles(packed[flat]), scale[flat], dtype).view(*ids.shape, -1)
