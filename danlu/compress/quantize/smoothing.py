"""Moving difficulty between inputs and weights, before anything is rounded.

A matrix that reads x can read x / s just as well if its columns are multiplied by s, and whatever made x can be made to
make x / s: the rows of the matrix before, or the weights of a norm. The block computes what it computed, but other
numbers meet the grid (`fold`):

    matrix      its input comes from            how x / s is made
    qkv         attention_norm                  norm weights (and bias) / s
    out         the values, by heads            rows of v / s; one s for the query heads that share a value head
    gate_up     mlp_norm                        norm weights (and bias) / s
    down        silu(gate) * up                 rows of up / s  (a GELU lies between in GPT-2: left alone)

AWQ (arXiv:2306.00978): columns that meet large inputs deserve finer steps. s = mean|x|^a, and of twenty a from 0 to 1
the one is taken whose rounded weights change the output least, sum of |(Q(W s) / s - W) x|^2.

SmoothQuant (arXiv:2211.10438): inputs that are rounded as well should have no outliers. s = max|x|^a / max|w|^(1 - a),
a = 0.5: both get the square root of the trouble.

Worked example of a fold, W = [[1, 2]], norm weights [1, 1], s = [2, 1]: the norm becomes [0.5, 1], W [[2, 2]], and for
a normed input [3, 4] the output stays 1 * 3 + 2 * 4 = 2 * 1.5 + 2 * 4 = 11.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from danlu.compress.walk.layers import Moments
from danlu.kernels import grid
from danlu.model.quantized import Scheme

STEPS = 20  # values of a that AWQ tries
SMOOTH = 0.5  # SmoothQuant's a
ScaleOf = Callable[[Tensor, Moments], Tensor]  # weight [N, K] and what is known of its inputs -> s [K]


def awq_scale(scheme: Scheme) -> ScaleOf:
    """AWQ's s for weights that will be rounded to `scheme`."""

    def scale_of(weight: Tensor, inputs: Moments) -> Tensor:
        size = inputs.mean_size.clamp_min(1e-4 * float(inputs.mean_size.mean()) + 1e-12)
        best, least = torch.ones_like(size), torch.inf
        for step in range(STEPS):
            s = size ** (step / STEPS)
            s = s / (s.max() * s.min()).sqrt()
            rounded = grid.fit(weight * s, scheme.bits, scheme.group, scheme.symmetric).widen() / s
            lost = output_error(weight - rounded, inputs.hessian)
            if lost < least:
                best, least = s, lost
        return best

    return scale_of


def smoothquant_scale(weight: Tensor, inputs: Moments) -> Tensor:
    largest = inputs.largest.clamp_min(1e-5) ** SMOOTH
    return (largest / weight.abs().amax(dim=0).clamp_min(1e-5) ** (1 - SMOOTH)).clamp(1e-4, 1e4)


def output_error(difference: Tensor, hessian: Tensor) -> float:
    """sum over inputs of |d x|^2 for d [N, K] and H = sum of x x^T [K, K]."""
    return float(((difference @ hessian) * difference).sum())


def smooth(block: Any, moments: dict[str, Moments], scale_of: ScaleOf) -> None:
    """Fold a scale into every matrix of `block` for which there is a place to undo it; in place, in floats.

    moments: of each matrix's inputs, before any fold.
    """
    for name, inputs in moments.items():
        undo = _producer(block, name)
        if undo is None:
            continue
        matrix = block.get_submodule(name)
        s = undo.shared(scale_of(matrix.weight.detach(), inputs))
        undo.divide(s)
        matrix.weight.mul_(s)


class _Producer:
    """What makes the inputs of a matrix: rows of `weight` (and `bias`), or elements of a norm's."""

    def __init__(self, parts: list[Tensor], heads: tuple[int, int, int] | None = None) -> None:
        self.parts, self.heads = parts, heads

    def shared(self, s: Tensor) -> Tensor:
        """One scale for all inputs that one row makes."""
        if self.heads is None:
            return s
        kv_heads, each, head_dim = self.heads
        return s.view(kv_heads, each, head_dim).log().mean(dim=1, keepdim=True).exp().expand(-1, each, -1).reshape(-1)

    def divide(self, s: Tensor) -> None:
        if self.heads is not None:
            kv_heads, each, head_dim = self.heads
            s = s.view(kv_heads, each, head_dim)[:, 0].reshape(-1)
        for part in self.parts:
            part.div_(s.view(-1, *[1] * (part.dim() - 1)))


def _producer(block: Any, name: str) -> _Producer | None:
    attention, mlp = block.attention, block.mlp
    if name in ("attention.qkv", "mlp.gate_up", "mlp.up"):
        norm = block.attention_norm if name == "attention.qkv" else block.mlp_norm
        return _Producer(_numbers(norm))
    if name == "attention.out":
        heads, kv_heads, _ = attention.heads
        rows = kv_heads * attention.head_dim
        return _Producer(
            [part[-rows:] for part in _numbers(attention.qkv)], (kv_heads, heads // kv_heads, attention.head_dim)
        )
    if hasattr(mlp, "gate_up"):
        return _Producer([part[len(part) // 2 :] for part in _numbers(mlp.gate_up)])
    return None


def _numbers(module: Any) -> list[Tensor]:
    bias = getattr(module, "bias", None)
    return [module.weight.detach()] + ([] if bias is None else [bias.detach()])
