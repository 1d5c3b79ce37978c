"""The products of a linear layer in training under autocast, and of the head with its loss (cpu/linear.h).

    linear(x, W)                      x W^T, and backward g W and g^T x
    linear_cross_entropy(h, W, y)     sum of logsumexp(W h) - (W h)[y] over rows, with both gradients at once

Weights are float32 and stay so: they are rounded to bfloat16 as they are packed for the product, and their gradient is
summed and returned in float32. As operators of torch that is a cast of each weight, a product whose sums are rounded
to bfloat16 and a cast back. Both functions return None where the library cannot compute them or torch is faster
(`products` in kernels/call.py); the reference is torch's own linear layer, and for the head train/loss.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from danlu.kernels.call import compiled, kernels, pointer, products

SIDES = 16  # both sides of a weight are multiples of it: whole vectors


def linear(x: Tensor, weight: Tensor) -> Tensor | None:
    """x [..., K] bfloat16, weight [N, K] float32 -> [..., N] bfloat16."""
    return _Linear.apply(x, weight) if x.dtype == torch.bfloat16 and _fits(x, weight) and compiled(x) else None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, need_hidden: bool, need_weight: bool
) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
    """hidden [N, D] bfloat16, weight [V, D] float32, targets [N] int64 -> losses [N] and the gradients of their sum.

    `chunk` rows of logits exist at a time. To be called inside a Function: it is no operator that autograd knows.
    """
    if hidden.dtype != torch.bfloat16 or not _fits(hidden, weight):
        return None
    rows, vocab = len(hidden), len(weight)
    hidden, logits, losses = hidden.contiguous(), hidden.new_empty(min(chunk, rows), vocab), torch.empty(rows)
    d_hidden = torch.empty_like(hidden) if need_hidden else None
    d_weight = torch.empty_like(weight) if need_weight else None
    kernels().danlu_linear_cross_entropy(
        torch.get_num_threads(), rows, vocab, hidden.shape[1], chunk, pointer(hidden), pointer(weight),
        pointer(targets.contiguous()), pointer(logits), pointer(losses), pointer(d_hidden), pointer(d_weight),
    )  # fmt: skip
    return losses, d_hidden, d_weight


def _fits(x: Tensor, weight: Tensor) -> bool:
    whole = weight.dtype == torch.float32 and weight.is_contiguous() and not any(s % SIDES for s in weight.shape)
    here = x.device.type == "cpu" and x.numel() > 0
    return whole and here and products()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        n, k = weight.shape
        y = x.new_empty(*x.shape[:-1], n)
        kernels().danlu_linear(torch.get_num_threads(), x.numel() // k, n, k, pointer(x), pointer(weight), pointer(y))
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        n, k = weight.shape
        gradient = gradient.contiguous()
        d_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        d_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        kernels().danlu_linear_backward(
            torch.get_num_threads(), x.numel() // k, n, k, pointer(gradient), pointer(x), pointer(weight),
            pointer(d_x), pointer(d_weight),
        )  # fmt: skip
        return d_x, d_weight
