"""Quantisation: the scales and whole numbers of a block that lose least of its weights.

A block of weights x becomes whole numbers q and one or two scales. Rounding x / d is easy; what matters is d. The
obvious one, the largest weight over the largest q, is ruled by that one weight. So each block tries a row of candidate
scales around the obvious one, rounds, and asks for each candidate which scales would have been best for the q that came
out, a question with an exact answer:

    symmetric  x ~ d q          d = sum(w x q) / sum(w q q)                      error: sum(w x x) - d sum(w x q)
    affine     x ~ d q - m      two normal equations in d and m                  error: their residual

The candidate of the smallest error is kept, and q is rounded once more for its scales as they will be stored. The
weights w say which errors matter; without data the best guess is that large weights carry more, so that w grows with
|x|. Nothing here needs data.

Worked example, symmetric with q from -8 to 7, one block (29 other weights are 0): x = [0.8, -0.4, 0.1]. The candidate
0.8 / -8 gives q = [-8, 4, -1], and the scale that fits these is -0.1: nothing is lost.

The K types store the scales of 8 (or 16) sub-blocks as whole numbers too, times one or two floats of the block of 256.
They are fitted sub-block by sub-block, rounded, and then the floats are fitted again to the outcome.

Blocks lie in columns here, `[values, n]`: every sum is then over the first dimension, which the processor does for a
vector of blocks at once.

Source: weighted least squares; that a scan of candidates pays is the experience of llama.cpp (its `make_qkx2_quants`).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

TINY = 1e-30  # instead of a division by nothing


def symmetric(x: Tensor, low: int, weights: Tensor) -> Tensor:
    """The scales d `[n]` for columns of x `[k, n]` as d * q with q from `low` to -low - 1; 0 for a column of zeros."""
    top = x.gather(0, x.abs().argmax(0, keepdim=True))[0]  # [n], with its sign
    inverse_top = torch.where(top == 0, 0, 1 / top)
    weighted = weights * x
    best, scale = torch.zeros_like(top), torch.zeros_like(top)
    for level in _levels(low):
        q = (x * (inverse_top * level)).round_().clamp_(low, -low - 1)
        along, square = (weighted * q).sum(0), (weights * q.square_()).sum(0)
        gain = along.square() / square.clamp_min(TINY)
        better = gain > best
        best, scale = torch.where(better, gain, best), torch.where(better, along / square.clamp_min(TINY), scale)
    return scale


def _levels(low: int) -> Iterable[float]:
    """Where the largest weight of a block may come to lie: around the lowest q, and around the highest."""
    reach = (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9)
    yield from (low + step for step in reach)
    if low > -32:  # with many levels one end is as good as the other
        yield from (-low - 1 + step for step in reach)


def affine(x: Tensor, top: int, weights: Tensor, positive: bool) -> tuple[Tensor, Tensor]:
    """Scales d and offsets m, `[n]` each, for columns of x `[k, n]` as d * q - m with q from 0 to `top`.

    `positive`: m must not be negative, as in the K types.
    """
    lowest, highest = x.amin(0), x.amax(0)
    if positive:
        lowest = lowest.clamp_max(0)
    width = highest - lowest
    weighted = weights * x
    sum_w, sum_x, sum_xx = weights.sum(0), weighted.sum(0), (weighted * x).sum(0)
    scale, offset = width / top, -lowest
    best = torch.full_like(width, torch.inf)
    shifted = x - lowest
    for step in range(-10, 11):
        q = (shifted * ((top + 0.1 * step) / width.clamp_min(TINY))).round_().clamp_(0, top)
        weighted_q = weights * q
        sum_xq, sum_q, sum_qq = (weighted * q).sum(0), weighted_q.sum(0), weighted_q.mul_(q).sum(0)
        d, m = _line(sum_w, sum_x, sum_q, sum_qq, sum_xq)
        if positive:
            d = torch.where(m < 0, sum_xq / sum_qq.clamp_min(TINY), d)
            m = m.clamp_min(0)
        error = sum_xx + d * (d * sum_qq - 2 * sum_xq - 2 * m * sum_q) + m * (2 * sum_x + m * sum_w)
        better = (error < best) & (d > 0)
        best = torch.where(better, error, best)
        scale, offset = torch.where(better, d, scale), torch.where(better, m, offset)
    return scale, offset


def _line(w: Tensor, x: Tensor, q: Tensor, qq: Tensor, xq: Tensor) -> tuple[Tensor, Tensor]:
    """d and m of the weighted least squares x ~ d q - m, from sums; d = 0 where all q are equal."""
    determinant = w * qq - q * q
    flat = determinant <= 1e-6 * w * qq
    inverse = torch.where(flat, 0, 1 / torch.where(flat, 1, determinant))
    return (w * xq - x * q) * inverse, torch.where(flat, -x / w.clamp_min(TINY), (q * xq - qq * x) * inverse)


def stored(scale: Tensor) -> Tensor:
    """What float16 keeps of it."""
    return scale.half().float()


def divided(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """round(x / scale) within bounds; 0 (or the nearest bound) where the scale is 0."""
    return (x * torch.where(scale == 0, 0, 1 / scale)).round_().clamp_(low, high)


def importance(x: Tensor) -> Tensor:
    """The weights w of errors in columns of x: |x| and the column's own size."""
    return x.abs() + x.square().mean(0).sqrt() + TINY
