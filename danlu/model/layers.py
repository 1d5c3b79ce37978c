"""The small parts of a block: linear, embedding, the two norms, the two MLPs.

    RMSNorm(x)   = x / sqrt(mean(x^2) + eps) * w                  arXiv:1910.07467, eq. 4
    LayerNorm(x) = (x - mean) / sqrt(var + eps) * w + b           arXiv:1607.06450
    SwiGLU(x)    = (silu(x Wg^T) * (x Wu^T)) Wd^T                 arXiv:2002.05202, eq. 6;  silu(z) = z sigmoid(z)
    GELU MLP(x)  = gelu(x Wu^T + bu) Wd^T + bd                    GPT-2

Gate and up are one matrix `gate_up` [2F, D], gate rows first: one matrix product instead of two over the same input.
On disk they are two; families.py cuts and joins.

None of these initialises itself: all of that is `Transformer.initialise`, in one place.

RMSNorm and SwiGLU are compiled kernels in training on a CPU (kernels/rows.py), and where there is no compiler they have
hand-written backward passes. The reason is memory traffic: at the width of the small presets an element-wise pass over
[B, T, D] costs as much as a tenth of a matrix product, and autograd of the plain formulas makes more passes than the
derivative needs. Tests hold the forms equal; the plain one is used wherever no gradient is asked for.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.kernels.call import training_on_cpu
from danlu.kernels.linear import linear
from danlu.kernels.rows import add_rms_norm, rms_norm, swiglu
from danlu.model.config import ModelConfig


class Linear(nn.Linear):
    """nn.Linear that leaves its memory as it comes; `Transformer.initialise` or a checkpoint fills it."""

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        compiled = linear(x, self.weight) if self.bias is None else None
        return super().forward(x) if compiled is None else compiled


class Embedding(nn.Embedding):
    """ids -> rows of `weight` [V, D]. With tied weights it is the head as well: `project`."""

    def reset_parameters(self) -> None:
        pass

    def project(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> logits [..., V]."""
        return F.linear(hidden, self.weight)


class RMSNorm(nn.Module):
    """Worked example, eps 0: x = [3, 4], mean(x^2) = 12.5, so x / 3.5355 = [0.8485, 1.1314], times w."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if not training_on_cpu(x):
            return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
        compiled = rms_norm(x, self.weight, self.eps)
        return RMSNormFunction.apply(x, self.weight, self.eps) if compiled is None else compiled

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


class LayerNorm(nn.LayerNorm):
    def reset_parameters(self) -> None:
        pass


class RMSNormFunction(torch.autograd.Function):
    """y = n w with n = x r and r = (mean(x^2) + eps)^(-1/2); x [..., D], w [D].

    dL/dn = g w, and since r depends on every x of the row:  dL/dx = r (dL/dn - n mean(dL/dn n)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)  # bfloat16 is squared, summed and scaled in float32
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)  # [..., 1]
        r = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return (x * r).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, r = ctx.saved_tensors
        gradient, size = gradients[0], x.shape[-1]
        n = x * r
        product = (gradient * n).view(-1, size)  # g n, a row per vector
        d_weight = product.sum(0)
        mean = torch.mv(product, weight.to(product.dtype)).view(r.shape).div_(size)  # mean(g w n)
        d_x = torch.addcmul(gradient * weight, n, mean, value=-1).mul_(r)
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None


class SwiGLUFunction(torch.autograd.Function):
    """[..., 2F] -> [..., F]: silu(gate) * up. Keeps only its input; silu is computed again on the way back."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gradient = gradients[0]
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        d_gate, d_up = result.chunk(2, dim=-1)
        torch.mul(F.silu(gate), gradient, out=d_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=d_gate)
        return result


class SwiGLU(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        gate_up = self.gate_up(x)  # [B, T, 2F]
        if not training_on_cpu(gate_up):
            gate, up = gate_up.chunk(2, dim=-1)
            return self.down(F.silu(gate) * up)
        compiled = swiglu(gate_up)
        return self.down(SwiGLUFunction.apply(gate_up) if compiled is None else compiled)


class GeluMLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.approximate = "tanh" if config.gelu_tanh else "none"

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


def add_norm(norm: nn.Module, x: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor]:
    """x + added, and its norm: two lines of a block that may be one pass over memory."""
    if added is None:
        return x, norm(x)
    compiled = add_rms_norm(x, added, norm.weight, norm.eps) if isinstance(norm, RMSNorm) else None
    if compiled is not None:
        return compiled
    x = x + added
    return x, norm(x)


def make_norm(config: ModelConfig) -> nn.Module:
    if config.norm == "layer":
        return LayerNorm(config.hidden_size, eps=config.norm_eps)
    return RMSNorm(config.hidden_size, config.norm_eps)


def make_mlp(config: ModelConfig) -> nn.Module:
    return SwiGLU(config) if config.mlp == "swiglu" else GeluMLP(config)
