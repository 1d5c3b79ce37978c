"""Row by row in a training step: RMSNorm, SwiGLU and softmax with cross-entropy, each one pass over memory.

    rms_norm(x, w)                 x / sqrt(mean(x^2) + eps) * w
    add_rms_norm(x, added, w)      x + added, and its norm
    swiglu(gate_up)                silu(gate) * up
    softmax_cross_entropy_(z, y)   logsumexp(z) - z[y]; z becomes softmax(z) - onehot(y)

At the width of small models an operator's time is that of reading and writing memory, and torch's would read and write
these tensors five to ten times, casts included. Under autocast a norm writes the dtype that the product behind it
reads. Every function here returns None where the library cannot compute it (kernels/call.py); the caller then takes
the same formula in torch, in model/layers.py and train/loss.py, which is the reference. The C++ is in cpu/rows.h.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from danlu.kernels.call import DTYPES, autocast_dtype, compiled, kernels, pointer


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor | None:
    """x [..., D], weight [D] float32 -> the norm of each row, in autocast's dtype."""
    if not _fits(x, x, weight):
        return None
    return _RMSNorm.apply(x, weight, eps, autocast_dtype(x))


def add_rms_norm(x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor] | None:
    """x + added in x's dtype, and its norm in autocast's. All [..., D]; weight [D] float32."""
    if not _fits(x, added, weight) or x.shape != added.shape or torch.promote_types(x.dtype, added.dtype) != x.dtype:
        return None
    return _AddRMSNorm.apply(x, added, weight, eps, autocast_dtype(x))


def swiglu(gate_up: Tensor) -> Tensor | None:
    """[..., 2F] -> [..., F]: silu of the first half of a row times the second."""
    return _SwiGLU.apply(gate_up) if compiled(gate_up) else None


def softmax_cross_entropy_(logits: Tensor, targets: Tensor, gradient: bool) -> Tensor | None:
    """The loss of each row of logits [N, V] at targets [N] int64: float32 [N].

    Where `gradient` is wanted, logits become softmax(logits) - onehot(targets). To be called inside a Function: it is
    no operator that autograd knows.
    """
    if logits.device.type != "cpu" or logits.dtype not in DTYPES or not logits.is_contiguous() or kernels() is None:
        return None
    rows, vocab = logits.shape
    losses = torch.empty(rows)
    kernels().danlu_softmax_cross_entropy(
        torch.get_num_threads(), rows, vocab, DTYPES[logits.dtype], pointer(logits), pointer(targets.contiguous()),
        gradient, pointer(losses),
    )  # fmt: skip
    return losses


def _fits(x: Tensor, added: Tensor, weight: Tensor) -> bool:
    return autocast_dtype(x) in DTYPES and weight.dtype == torch.float32 and compiled(x, added, weight)


class _RMSNorm(torch.autograd.Function):
    """y = x r w with r = (mean(x^2) + eps)^(-1/2); the derivative is in model/layers.py, RMSNormFunction."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        _, y = _norm_forward(ctx, x.contiguous(), None, weight, eps, dtype)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_x, _, d_weight = _norm_backward(ctx, None, gradient)
        return d_x, d_weight, None, None


class _AddRMSNorm(torch.autograd.Function):
    """s = x + added, y = s r w. The gradient that reaches s, both ways together, is that of x and of `added`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # nobody reads the sum behind the last norm
        return _norm_forward(ctx, x.contiguous(), added.contiguous(), weight, eps, dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_sum: Tensor | None, gradient: Tensor | None) -> tuple[Tensor, Tensor, Tensor, None, None]:
        if gradient is None:
            gradient = torch.zeros_like(ctx.saved_tensors[0], dtype=ctx.dtypes[2])
        return *_norm_backward(ctx, d_sum, gradient), None, None


def _norm_forward(
    ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    size = x.shape[-1]
    total = x if added is None else torch.empty_like(x)
    y, r = torch.empty(x.shape, dtype=dtype), torch.empty(x.numel() // size)
    ctx.dtypes = x.dtype, x.dtype if added is None else added.dtype, dtype
    kernels().danlu_rms_norm(
        torch.get_num_threads(), len(r), size, eps, *(DTYPES[d] for d in ctx.dtypes), pointer(x), pointer(added),
        pointer(weight), pointer(total), pointer(y), pointer(r),
    )  # fmt: skip
    ctx.save_for_backward(total, r, weight)
    return total, y


def _norm_backward(ctx: Any, d_sum: Tensor | None, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of what was added (the same, in its own dtype) and of the weight."""
    total, r, weight = ctx.saved_tensors
    x_dtype, added_dtype, _ = ctx.dtypes
    gradient, d_sum = gradient.contiguous(), None if d_sum is None else d_sum.contiguous()
    d_x, d_weight = torch.empty_like(total), torch.empty_like(weight)
    d_added = d_x if added_dtype == x_dtype else torch.empty(total.shape, dtype=added_dtype)
    kernels().danlu_rms_norm_backward(
        torch.get_num_threads(), len(r), total.shape[-1], *(DTYPES[d] for d in ctx.dtypes), pointer(gradient),
        pointer(d_sum), pointer(total), pointer(r), pointer(weight), pointer(d_x),
        None if d_added is d_x else pointer(d_added), pointer(d_weight),
    )  # fmt: skip
    return d_x, d_added, d_weight


class _SwiGLU(torch.autograd.Function):
    """Keeps only its input; silu is computed again on the way back."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        ctx.save_for_backward(gate_up)
        inner = gate_up.shape[-1] // 2
        y = torch.empty(*gate_up.shape[:-1], inner, dtype=gate_up.dtype)
        kernels().danlu_swiglu(
            torch.get_num_threads(), y.numel() // inner, inner, DTYPES[y.dtype], pointer(gate_up), pointer(y)
        )
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gradient, d_gate_up = gradient.contiguous(), torch.empty_like(gate_up)
        inner = gradient.shape[-1]
        kernels().danlu_swiglu_backward(
            torch.get_num_threads(), gradient.numel() // inner, inner, DTYPES[gate_up.dtype], pointer(gradient),
            pointer(gate_up), pointer(d_gate_up),
        )  # fmt: skip
        return d_gate_up
