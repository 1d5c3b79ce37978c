"""A linear layer and an embedding that keep their matrix in a scheme."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danlu.kernels.grid import Grid, unpack
from danlu.kernels.quantized import quantized_embedding, quantized_linear
from danlu.model.layers import Embedding, Linear
from danlu.model.low_rank import LowRankLinear
from danlu.model.quantized.scheme import Scheme


class Quantized(nn.Module):
    """A matrix [rows, columns] in a scheme."""

    weight_scale: Tensor

    def __init__(self, scheme: Scheme, rows: int, columns: int, device: torch.device | None) -> None:
        super().__init__()
        self.scheme, self.rows, self.columns = scheme, rows, columns
        self._zero: tuple[Tensor, int, Tensor] | None = None  # zero points as stored, their version, and unpacked
        shapes = scheme.shapes(rows, columns)
        self.put({name: torch.empty(shape, dtype=dtype, device=device) for name, (shape, dtype) in shapes.items()})

    def put(self, tensors: dict[str, Tensor]) -> None:
        """Keep these tensors, those of `Scheme.shapes`."""
        for name, tensor in tensors.items():
            if name == "weight_scale" and self.scheme.scale_dtype == torch.float32:
                self.weight_scale = nn.Parameter(tensor, requires_grad=False)
            elif tensor.is_floating_point():  # a buffer, which loading leaves in its own dtype
                self.register_buffer(name, tensor)
            else:
                setattr(self, name, nn.Parameter(tensor, requires_grad=False))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._zero = None  # a move leaves a parameter and its version as they are
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)  # model.to(bfloat16) would change every weight
        return self

    @property
    def stored(self) -> Tensor:
        return getattr(self, self.scheme.weight_name)

    @property
    def zero(self) -> Tensor | None:
        """int8 [N, G], or None. Unpacked once: every product asks."""
        stored = getattr(self, "weight_zero_point", None)
        if stored is None or not self.scheme.packed:
            return stored
        version = 0 if stored.is_inference() else stored._version  # which counts what was written into it
        if self._zero is None or self._zero[0] is not stored or self._zero[1] != version:
            unpacked = self.scheme.zero(stored)
            assert unpacked is not None
            self._zero = stored, version, unpacked.contiguous()
        return self._zero[2]

    @property
    def on_grid(self) -> bool:
        """Whether its weights are whole numbers times a scale: what products of integers can use."""
        return self.scheme.kind == "int"

    def grid(self, out: Tensor | None = None) -> Grid:
        """The whole numbers, their scales and zero points; the numbers made in `out`, if they have to be made."""
        assert self.on_grid
        values = unpack(self.stored, out) if self.scheme.packed else self.stored
        return Grid(values, self.weight_scale, self.zero)

    def widen(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix [rows, columns] in floats."""
        return self.scheme.widen(self.stored, self.weight_scale, self.zero, dtype)

    def fill(self, weight: Tensor) -> float:
        """Round `weight` [N, K] into this module; returns its error."""
        self.put(self.scheme.round(weight))
        return self.error(weight)

    def error(self, weight: Tensor) -> float:
        """|w - w'| / |w| (Frobenius) for the `weight` that was to be kept."""
        lost = torch.linalg.vector_norm(self.widen() - weight.float())
        return float(lost / torch.linalg.vector_norm(weight.float()).clamp_min(1e-12))

    def product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., K] -> x w^T + bias, [..., N]."""
        if self.on_grid:
            return quantized_linear(x, self.stored, self.weight_scale, self.zero, bias)
        return F.linear(x, self.widen(x.dtype), None if bias is None else bias.to(x.dtype))

    def extra_repr(self) -> str:
        return f"{self.rows}, {self.columns}, {self.scheme}"


class QuantizedLinear(Quantized):
    """y = x w^T + bias; x [..., K] -> [..., N]."""

    def __init__(
        self, scheme: Scheme, in_features: int, out_features: int, bias: bool, device: torch.device | None = None
    ) -> None:
        super().__init__(scheme, out_features, in_features, device)
        self.bias = nn.Parameter(torch.empty(out_features, device=device), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.bias)


class QuantizedEmbedding(Quantized):
    """ids [...] -> rows [..., D]. With tied weights it is the head as well: `project`."""

    def forward(self, ids: Tensor) -> Tensor:
        dtype = self.weight_scale.dtype if self.scheme.scale_dtype == torch.float32 else torch.float32
        if self.on_grid:
            return quantized_embedding(ids, self.stored, self.weight_scale, self.zero, dtype)
        flat = ids.reshape(-1)
        return self.scheme.widen(self.stored[flat], self.weight_scale[flat], None, dtype).view(*ids.shape, -1)

    def project(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> logits [..., V]."""
        return self.product(hidden)


def empty_twin(module: nn.Module, scheme: Scheme, name: str) -> QuantizedLinear | QuantizedEmbedding:
    """`module`, a Linear or an Embedding called `name`, in `scheme`: with its bias and without its weights."""
    assert isinstance(module, nn.Linear | nn.Embedding)
    rows, columns = module.weight.shape
    scheme.check(rows, columns, name)
    if isinstance(module, nn.Embedding):
        return QuantizedEmbedding(scheme, rows, columns, module.weight.device)
    twin = QuantizedLinear(scheme, columns, rows, module.bias is not None, module.weight.device)
    if module.bias is not None:
        twin.bias = nn.Parameter(module.bias.detach().clone(), requires_grad=False)
    return twin


def float_twin(module: Quantized | LowRankLinear, dtype: torch.dtype) -> Linear | Embedding:
    """`module` written out: a Linear or an Embedding with the numbers that it stands for, in `dtype`."""
    wide = module.widen(dtype) if isinstance(module, Quantized) else module.weight.detach().to(dtype)
    bias = getattr(module, "bias", None)
    twin: Linear | Embedding
    if isinstance(module, QuantizedEmbedding):
        twin = Embedding(wide.shape[0], wide.shape[1], device="meta")
    else:
        twin = Linear(wide.shape[1], wide.shape[0], bias=bias is not None, device="meta")
    twin.weight = nn.Parameter(wide, requires_grad=False)
    if bias is not None:
        twin.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
    return twin
