"""Weights as whole numbers on a grid, one scale for a group of them.

A matrix `w` [N, K] becomes whole numbers `q` [N, K] and, for every `group` neighbours of a row (or the whole row), a
scale `s` and perhaps a zero point `z`:

    w[n, k] ~ s[n, k // group] * (q[n, k] - z[n, k // group])          bits   q
                                                                         8    -128 to 127 (symmetric: -127 to 127)
                                                                         4      -8 to 7

Symmetric grids have no zero point: zero stays zero, and nothing is stored but scales. With a zero point the levels
cover just the span from the smallest weight to the largest, which is worth the most where a group is lopsided.

Sixteen levels are few, so where they lie matters. The obvious scale, max |w| / 7, wastes the level -8 and is ruled by
the one largest weight. So for 4 bits a handful of scales are tried for each group and the one with the smallest squared
error is kept; `importance` [K] says how much the error of a column counts.

Worked example, one symmetric group (its other weights are 0): w = [0.8, -0.4, 0.1, 0.3].
    s = -0.1 puts 0.8 on the level -8:   q = [-8, 4, -1, -3], error 0
    s = 0.8 / 7 = 0.114:                 q = [7, -4 (-3.5), 1 (0.9), 3 (2.6)], w' = [0.8, -0.457, 0.114, 0.343]

Eight 4-bit numbers share an int32, q + 8 in four bits, the first in the lowest: compressed-tensors' "pack-quantized".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LEVELS = {4: (-8, 7), 8: (-127, 127)}  # of a symmetric grid
LOWEST = {4: -8, 8: -128}
SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8)  # of the largest weight: clipping it a little serves the others; not tuned
AT_ONCE = 1 << 22  # weights: the search holds a few copies of so many


class Grid(NamedTuple):
    """A matrix on a grid."""

    values: Tensor  # int8 [N, K]
    scale: Tensor  # float32 [N, G]; float16 numbers where there are groups, as they are stored
    zero: Tensor | None  # int8 [N, G], or None where it is 0

    def widen(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """[N, K] in `dtype`."""
        return widen(self.values, self.scale, self.zero, dtype)


def widen(values: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor:
    """int8 [N, K], scale [N, G], zero [N, G] -> [N, K] in `dtype`. The definition of what the numbers mean."""
    wide = values.float().unflatten(1, (scale.shape[1], -1))  # [N, G, group]
    if zero is not None:
        wide = wide - zero.float()[..., None]
    return (wide * scale.float()[..., None]).flatten(1).to(dtype)


def fit(
    weight: Tensor,
    bits: int,
    group: int | None,
    symmetric: bool = True,
    importance: Tensor | None = None,
    search: bool = True,
) -> Grid:
    """Round `weight` [N, K], of any float dtype, to the nearest numbers of a grid. K % group must be 0.

    Without `search` the first scale that comes to mind is taken: the one that reaches the largest weight.
    """
    rows = max(1, AT_ONCE // max(1, weight.shape[1]))
    parts = [_fit(part, bits, group, symmetric, importance, search) for part in weight.detach().split(rows)]
    values, scales, zeros = zip(*parts, strict=True)
    zero = None if symmetric else torch.cat([z for z in zeros if z is not None])
    return Grid(torch.cat(values), torch.cat(scales), zero)


def _fit(
    weight: Tensor, bits: int, group: int | None, symmetric: bool, importance: Tensor | None, search: bool
) -> Grid:
    width = group or weight.shape[1]
    groups = weight.float().unflatten(1, (-1, width))  # [N, G, group]
    counts = None if importance is None else importance.float().view(1, -1, width)
    candidates: Sequence[tuple[Tensor, Tensor | None]]
    candidates = _symmetric_scales(groups, bits) if symmetric else _spans(groups, bits)
    candidates = candidates if search else candidates[:1]
    if group is not None:  # as they will be stored
        candidates = [(scale.half().float(), zero) for scale, zero in candidates]
    best_scale: Tensor | None = None
    best_zero: Tensor | None = None
    best_error: Tensor | None = None
    for scale, zero in candidates if len(candidates) > 1 else ():
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        lost = (
            _round(groups, scale, zero, bits, symmetric).sub_(0 if zero is None else zero).mul_(scale) - groups
        ).square_()
        error = (lost if counts is None else lost * counts).sum(dim=2, keepdim=True)
        if best_error is None or best_scale is None:
            best_scale, best_zero, best_error = scale, zero, error
            continue
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
        best_zero = zero if zero is None or best_zero is None else torch.where(better, zero, best_zero)
    if best_scale is None:
        best_scale, best_zero = candidates[0]
        best_scale = torch.where(best_scale == 0, torch.ones_like(best_scale), best_scale)
    values = _round(groups, best_scale, best_zero, bits, symmetric)
    zero = None if best_zero is None else best_zero[..., 0].to(torch.int8)
    return Grid(values.flatten(1).to(torch.int8), best_scale[..., 0], zero)


def _round(groups: Tensor, scale: Tensor, zero: Tensor | None, bits: int, symmetric: bool) -> Tensor:
    low, high = levels(bits, symmetric)
    return torch.round(groups / scale + (0 if zero is None else zero)).clamp_(low, high)


def levels(bits: int, symmetric: bool) -> tuple[int, int]:
    """The lowest and the highest whole number."""
    return LEVELS[bits] if symmetric else (LOWEST[bits], -LOWEST[bits] - 1)


def _symmetric_scales(groups: Tensor, bits: int) -> list[tuple[Tensor, None]]:
    """Scales [N, G, 1] worth trying. Eight bits have levels enough for the obvious one."""
    top = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True))  # with its sign
    if bits == 8:
        return [(top.abs() / LEVELS[8][1], None)]
    return [(top * shrink / level, None) for level in LEVELS[bits] for shrink in SHRINK]


def _spans(groups: Tensor, bits: int) -> list[tuple[Tensor, Tensor]]:
    """Scales and zero points [N, G, 1] worth trying: the span of a group, and a little less at either end."""
    low = groups.amin(dim=2, keepdim=True).clamp_max_(0)
    high = groups.amax(dim=2, keepdim=True).clamp_min_(0)
    steps, lowest = 2**bits - 1, LOWEST[bits]
    shrinks = [(1.0, 1.0)] if bits == 8 else [(a, b) for a in SHRINK for b in SHRINK]
    found = []
    for shrink_low, shrink_high in shrinks:
        scale = ((high * shrink_high - low * shrink_low) / steps).half().float().clamp_min_(2**-24)
        found.append((scale, torch.round(lowest - low * shrink_low / scale).clamp_(lowest, lowest + steps)))
    return found


def round_to(weight: Tensor, scale: Tensor, zero: Tensor | None, bits: int) -> Tensor:
    """The nearest whole numbers to `weight` [N, k] where `scale` and `zero` [N, k] are settled; float, not yet int8."""
    return _round(weight, scale, zero, bits, zero is None)


def pack(values: Tensor) -> Tensor:
    """int8 [N, K] from -8 to 7 -> int32 [N, K / 8].

    >>> hex(pack(torch.tensor([[-8, -7, 0, 7, -8, -8, -8, -8]], dtype=torch.int8)).item())
    '0xf810'
    """
    nibbles = (values.int() + 8).view(values.shape[0], -1, 8)
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=values.device)
    return (nibbles << shifts).sum(dim=2, dtype=torch.int32)  # no two overlap, so the sum is an or; it may wrap


def unpack(packed: Tensor, out: Tensor | None = None) -> Tensor:
    """int32 [N, K / 8] -> int8 [N, K] from -8 to 7; in the memory of `out` when given, int8 [N, K] and contiguous."""
    pairs = packed.contiguous().view(torch.uint8)  # [N, K / 2]; the lowest byte first, as on every machine of today
    values = torch.empty(*pairs.shape, 2, dtype=torch.uint8, device=packed.device) if out is None else out
    values = values.view(torch.uint8).view(*pairs.shape, 2)
    torch.bitwise_and(pairs, 15, out=values[..., 0])
    torch.bitwise_right_shift(pairs, 4, out=values[..., 1])
    return values.flatten(1).view(torch.int8).sub_(8)
