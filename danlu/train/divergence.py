"""How far a model's predictions are from another one's: the loss of distillation, without the logits of a whole batch.

For one position, with p the teacher's chances, z = W h the student's logits and q = softmax(z),

    loss = sum over v of  p_v (log p_v - log q_v)       Kullback and Leibler's divergence, 0 where both agree
    d loss / d z = q - p                                [V]

As in `loss.py` the positions go by in chunks, each finished with its gradient while its logits are at hand. One label
says which token came; p says what else might have: V numbers a position to learn from instead of one (Hinton et al.,
arXiv:1503.02531, temperature 1).

Worked example, two tokens: p = [1/2, 1/2], z = [0, log 3] so q = [1/4, 3/4]:
    loss = 1/2 log 2 + 1/2 log 2/3 = 0.1438, gradient [-1/4, 1/4].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from danlu.train.loss import CHUNK_BYTES_CPU, CHUNK_BYTES_DEVICE


def divergence(hidden: Tensor, weight: Tensor, theirs: Tensor, their_weight: Tensor) -> Tensor:
    """Sum of the divergences, float32, differentiable in hidden [N, D] and weight [V, D].

    theirs [N, D'], their_weight [V, D']: hidden states and head of the teacher. Computed in float32.
    """
    limit = CHUNK_BYTES_CPU if hidden.device.type == "cpu" else CHUNK_BYTES_DEVICE
    chunk = max(64, limit // (4 * weight.shape[0]))
    loss: Tensor = _Divergence.apply(hidden, weight, theirs.detach(), their_weight.detach(), chunk)
    return loss


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, theirs: Tensor, their_weight: Tensor, chunk: int) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        with torch.autocast(hidden.device.type, enabled=False):
            head, their_head = weight.float(), their_weight.float()
            for start in range(0, len(hidden), chunk):
                part = slice(start, start + chunk)
                h = hidden[part].float()  # [C, D]
                ours = (h @ head.T).log_softmax(dim=-1)  # [C, V]
                wanted = (theirs[part].float() @ their_head.T).log_softmax(dim=-1)
                chances = wanted.exp()
                total += (chances * (wanted - ours)).sum()
                g = ours.exp_().sub_(chances)
                grad_hidden[part] = (g @ head).to(hidden.dtype)
                if grad_weight is not None:
                    grad_weight.addmm_(g.T, h)
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        of_weight = None if grad_weight is None else grad_weight * grad_output
        return grad_hidden * grad_output, of_weight, None, None, None
