"""Two optimisers under one roof: Muon for the hidden matrices, AdamW for everything else.

AdamW (Kingma & Ba, arXiv:1412.6980, algorithm 1; decoupled decay: Loshchilov & Hutter, arXiv:1711.05101, algorithm 2):

    m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g^2
    p = (1 - lr wd) p - lr  (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

Muon (Keller Jordan, kellerjordan.github.io/posts/muon, 2024) asks more of a matrix than of a list of numbers. The
momentum of a weight matrix is nearly low-rank: a few directions hold almost all of its length, and the rest never
learn. Muon replaces it by the nearest matrix with all singular values one, U V^T instead of U S V^T:

    m = b m + (1 - b) g            u = b m + (1 - b) g                          (Nesterov)
    p = (1 - lr wd) p - lr  0.2 sqrt(max(rows, cols))  orthogonalise(u)

The factor 0.2 sqrt(max(rows, cols)) gives the update the root-mean-square an AdamW update has, so both optimisers
share one learning rate and one decay (Liu et al., "Muon is Scalable for LLM Training", arXiv:2502.16982, eq. 4).

A weight that holds several matrices (query, key and value in one; gate and up in one) is cut at its seams before it
is orthogonalised: the seams are a matter of storage, not of mathematics.

What it costs. One matrix [m, n], m <= n, takes 3 (4 m^2 n + 2 m^3) floating-point operations, whatever the batch; the
training step itself takes 6 m n per token. For square matrices the ratio is 3 m / tokens: at width 256 it is 5 % of a
step of 16,384 tokens and 37 % of one of 2,048. ``Optimizer.flops`` reports it and the stage writes it in its report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from danlu.kernels.muon import Matrix, muon_update_

NEWTON_SCHULZ = (
    (8.4703, -25.1081, 18.6293),
    (4.1828, -3.1087, 0.5806),
    (3.9619, -2.9541, 0.5630),
)
"""One odd polynomial a s + b s^3 + c s^5 an iteration, each the one that comes nearest to 1 (in the largest error) on
the interval where the one before left the singular values, beginning with [0.001, 1]: they end in [0.14, 1.86]. The
greedy choice is the best possible one (Amsel et al., "The Polar Express", arXiv:2505.16932, theorem 3.1). Looser than
the five equal iterations of the original, and enough: docs/decisions/0007."""


def orthogonalise(matrices: Tensor) -> Tensor:
    """The orthogonal factor of each matrix, roughly: U S V^T -> U S' V^T with every S' between 0.14 and 1.86.

    matrices ``[N, m, n]``; returns the same shape and dtype. Newton-Schulz: with X scaled to norm <= 1, repeat
    X <- a X + b (X X^T) X + c (X X^T)^2 X, which applies the odd polynomial a s + b s^3 + c s^5 to each singular value.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT  # X X^T on the short side
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in NEWTON_SCHULZ:
        gram = x @ x.mT  # [N, m, m]
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def newton_schulz_flops(rows: int, cols: int) -> float:
    """Operations of ``orthogonalise`` on one matrix."""
    m, n = min(rows, cols), max(rows, cols)
    return len(NEWTON_SCHULZ) * (4.0 * m * m * n + 2.0 * m**3)


@dataclass
class Group:
    """Parameters that are updated by the same rule. splits[i]: row counts of the matrices inside params[i]."""

    rule: str  # "muon" or "adamw"
    names: list[str]
    params: list[nn.Parameter]
    learning_rate: float
    weight_decay: float
    splits: list[tuple[int, ...]] = field(default_factory=list)


class Optimizer:
    """Steps over groups. State lives in plain named tensors, so a checkpoint is one safetensors file.

    ``step(factor)`` updates all parameters from their ``.grad`` with learning rates multiplied by ``factor``.
    Parameters without a gradient are left alone, momentum included.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        momentum: float = 0.95,
        matrix_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.groups = [group for group in groups if group.params]
        self.betas, self.eps, self.momentum = betas, eps, momentum
        self.matrix_dtype = matrix_dtype  # in which Newton-Schulz multiplies; bfloat16 is enough where it is fast
        self.steps = 0
        self.state: dict[str, Tensor] = {}
        for group in self.groups:
            for name, param in zip(group.names, group.params, strict=True):
                self.state[f"{name}.momentum"] = torch.zeros_like(param, memory_format=torch.contiguous_format)
                if group.rule == "adamw":
                    self.state[f"{name}.variance"] = torch.zeros_like(param, memory_format=torch.contiguous_format)

    @property
    def params(self) -> list[nn.Parameter]:
        return [param for group in self.groups for param in group.params]

    @property
    def flops(self) -> float:
        """Operations one step spends in Newton-Schulz (the rest of a step is bound by memory)."""
        total = 0.0
        for group in self.groups:
            for param, split in zip(group.params, group.splits, strict=False):
                total += sum(newton_schulz_flops(rows, param.shape[1]) for rows in split)
        return total

    def zero_grad(self) -> None:
        for param in self.params:
            param.grad = None

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        self.steps += 1
        for group in self.groups:
            update = self._muon if group.rule == "muon" else self._adamw
            update(group, factor * group.learning_rate)

    def _adamw(self, group: Group, lr: float) -> None:
        live = [(n, p) for n, p in zip(group.names, group.params, strict=True) if p.grad is not None]
        if not live:
            return
        params: list[Tensor] = [p for _, p in live]
        grads = [p.grad for p in params if p.grad is not None]
        m = [self.state[f"{n}.momentum"] for n, _ in live]
        v = [self.state[f"{n}.variance"] for n, _ in live]
        adamw_(params, grads, m, v, self.steps, lr, self.betas, self.eps, group.weight_decay)

    def _muon(self, group: Group, lr: float) -> None:
        matrices = []
        for name, param, split in zip(group.names, group.params, group.splits, strict=True):
            if param.grad is not None:
                tensors = (param.detach(), self.state[f"{name}.momentum"], param.grad)
                matrices += [Matrix(*pieces) for pieces in zip(*(t.split(split) for t in tensors), strict=True)]
        decay, scale = 1 - lr * group.weight_decay, lr * 0.2
        left = muon_update_(
            matrices, NEWTON_SCHULZ, momentum=self.momentum, decay=decay, scale=scale, dtype=self.matrix_dtype
        )
        # Matrices of one shape are orthogonalised together: few large multiplications instead of many small ones.
        stacks: dict[torch.Size, list[Matrix]] = {}
        for matrix in left:
            stacks.setdefault(matrix.weights.shape, []).append(matrix)
        for (rows, cols), stack in stacks.items():
            pieces, momenta, grads = (list(tensors) for tensors in zip(*stack, strict=True))
            torch._foreach_lerp_(momenta, grads, 1 - self.momentum)
            directions = torch._foreach_lerp(grads, momenta, self.momentum)
            update = orthogonalise(torch.stack(directions).to(self.matrix_dtype))
            torch._foreach_mul_(pieces, decay)
            torch._foreach_add_(
                pieces, list(update.to(pieces[0].dtype).unbind()), alpha=-scale * math.sqrt(max(rows, cols))
            )

    def state_dict(self) -> dict[str, Tensor]:
        """The state as tensors, the step counter among them; the tensors are not copies."""
        return {**self.state, "steps": torch.tensor(self.steps)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        assert set(tensors) == {*self.state, "steps"}, "an optimiser state of another model"
        self.steps = int(tensors["steps"])
        for name, tensor in self.state.items():
            tensor.copy_(tensors[name])


def adamw_(
    params: list[Tensor],
    grads: list[Tensor],
    m: list[Tensor],
    v: list[Tensor],
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    *,
    fused: bool | None = None,
) -> None:
    """One AdamW update in place. ``step`` counts from 1; ``fused`` None means where the kernel exists.

    torch's fused kernel does in one pass over memory what the six lines below do in six; they are the definition, and
    the way on devices without the kernel.
    """
    b1, b2 = betas
    if params[0].device.type in ("cpu", "cuda") if fused is None else fused:
        counters = [torch.tensor(float(step), device=p.device) for p in params]
        torch._fused_adamw_(
            params, grads, m, v, [], counters,
            lr=lr, beta1=b1, beta2=b2, weight_decay=weight_decay, eps=eps, amsgrad=False, maximize=False,
        )  # fmt: skip
        return
    torch._foreach_lerp_(m, grads, 1 - b1)
    torch._foreach_mul_(v, b2)
    torch._foreach_addcmul_(v, grads, grads, 1 - b2)
    divisors = torch._foreach_add(torch._foreach_div(torch._foreach_sqrt(v), math.sqrt(1 - b2**step)), eps)
    torch._foreach_mul_(params, 1 - lr * weight_decay)
    torch._foreach_addcdiv_(params, m, divisors, -lr / (1 - b1**step))


def clip_(grads: Iterable[Tensor], limit: float) -> Tensor:
    """Scale all gradients so that their joint Euclidean norm is at most ``limit``; returns the norm before.

    0 means no limit. A norm that is not finite is returned as it is and the gradients stay untouched: the caller stops.
    """
    grads = list(grads)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    if limit > 0 and torch.isfinite(norm) and norm > limit:
        torch._foreach_mul_(grads, limit / float(norm))
    return norm


def make_optimizer(
    model: nn.Module,
    *,
    name: str = "muon",
    learning_rate: float,
    vector_learning_rate: float | None = None,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    momentum: float = 0.95,
    matrix_dtype: torch.dtype = torch.float32,
    splits: Callable[[str, nn.Parameter], tuple[int, ...]] | None = None,
) -> Optimizer:
    """Sort a model's trainable parameters into groups.

    * matrices (2-D) that are neither embedding nor head: Muon, or AdamW with ``name="adamw"``; decay.
    * embedding and head tables: AdamW; decay. Their rows are looked up one by one, so they are lists of vectors.
    * vectors (norm gains, biases): AdamW, no decay. Pulling a gain towards zero is not a prior anyone wants.

    ``vector_learning_rate`` is that of the last two; None means the same as the matrices'. ``splits(name, param)``
    gives the row counts of the matrices stored inside one parameter (default: it is one matrix).
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)} | {
        id(p) for n, p in model.named_parameters() if n.split(".")[-2:-1] in (["lm_head"], ["head"], ["embed"])
    }
    rate = vector_learning_rate if vector_learning_rate is not None else learning_rate
    matrices = Group(name, [], [], learning_rate, weight_decay)
    table = Group("adamw", [], [], rate, weight_decay)
    vectors = Group("adamw", [], [], rate, 0.0)
    for param_name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        group = vectors if param.dim() < 2 else table if id(param) in tables else matrices
        group.names.append(param_name)
        group.params.append(param)
        if group is matrices and name == "muon":
            group.splits.append(splits(param_name, param) if splits else (param.shape[0],))
    return Optimizer([matrices, table, vectors], betas=betas, momentum=momentum, matrix_dtype=matrix_dtype)


def describe(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The groups as rows for the report."""
    return [
        {
            "rule": group.rule,
            "parameters": sum(p.numel() for p in group.params),
            "learning_rate": group.learning_rate,
            "weight_decay": group.weight_decay,
        }
        for group in optimizer.groups
    ]
