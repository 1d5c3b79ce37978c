"""Scales from the weights alone, for an error that does not fear outliers (after HQQ, Badri and Shaji, 2023).

Least squares lets the largest weights of a group rule its scale. Here the error counts as sum |e|^p with p = 0.7, under
which a few large errors are cheaper than many middling ones. It is minimised in halves: with the whole numbers settled,
the error is split into a sparse part u, which is left alone, and the rest, for which a scale is least squares; then the
numbers are rounded anew.

    u     = shrink(w - s (q - z)),      shrink(e) = sign(e) max(0, |e| - |e|^(p - 1) / beta)
    s     = <w - u, q - z> / <q - z, q - z>
    z     = round(mean(q - (w - u) / s)),  where there are zero points
    q     = round(w / s + z)

Worked example, 4 bits, one symmetric group of one 11.5, fourteen 1, fourteen 2 and three 0. Least squares takes
s = -1.22: the 11.5 becomes 9.77, and every other weight is off by a fifth. Here s = -1.01: the 11.5 becomes 8.11, the
others are off by a seventieth, and the sum of |e|^0.7 falls from 14.3 to 4.2.

beta grows by 1 % a step, so that u empties. The best step by the p-norm is kept, so the result is never worse than the
grid it begins with. (HQQ's zero points are fractions; here they are whole numbers, as the formats want them.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.kernels import grid
from danlu.kernels.grid import Grid
from danlu.model.quantized import Scheme

P, STEPS, BETA, GROWTH = 0.7, 20, 10.0, 1.01


def hqq(weight: Tensor, scheme: Scheme) -> Grid:
    """weight [N, K] -> the matrix on the grid of `scheme`."""
    start = grid.fit(weight, scheme.bits, scheme.group, scheme.symmetric)
    shape = (len(weight), start.scale.shape[1], -1)
    w = weight.detach().float().view(shape)
    unit = w.abs().mean(dim=2, keepdim=True).clamp_min(1e-12)  # beta is a number for errors of size 1
    s, q = start.scale[..., None].clone(), start.values.float().view(shape)
    z = None if start.zero is None else start.zero[..., None].float()
    best, least = (s, z), _cost(w, q, s, z)
    beta = BETA
    for _ in range(STEPS):
        level = q if z is None else q - z
        u = _shrink((w - s * level) / unit, beta) * unit
        top, bottom = ((w - u) * level).sum(dim=2, keepdim=True), level.square().sum(dim=2, keepdim=True)
        s = torch.where(bottom > 0, top / bottom.clamp_min(1e-12), s)
        s = s.half().float() if scheme.group else s
        s = torch.where(s == 0, best[0], s)
        if z is not None:
            low = grid.LOWEST[scheme.bits]
            z = torch.round((q - (w - u) / s).mean(dim=2, keepdim=True)).clamp_(low, -low - 1)
        q = grid.round_to(w, s, z, scheme.bits)
        cost = _cost(w, q, s, z)
        better = cost < least
        best = torch.where(better, s, best[0]), None if z is None else torch.where(better, z, best[1])  # type: ignore[arg-type]
        least, beta = torch.where(better, cost, least), beta * GROWTH
    s, z = best
    values = grid.round_to(w, s, z, scheme.bits).to(torch.int8).flatten(1)
    return Grid(values, s[..., 0], None if z is None else z[..., 0].to(torch.int8))


def _cost(w: Tensor, q: Tensor, s: Tensor, z: Tensor | None) -> Tensor:
    """sum |w - s (q - z)|^p of every group, [N, G, 1]."""
    return (w - s * (q if z is None else q - z)).abs().pow(P).sum(dim=2, keepdim=True)


def _shrink(error: Tensor, beta: float) -> Tensor:
    size = error.abs()
    return error.sign() * (size - size.clamp_min(1e-8).pow(P - 1) / beta).clamp_min(0)
