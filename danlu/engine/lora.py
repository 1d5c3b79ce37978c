"""Adapters on torch: what a linear layer gives, and for some rows of the batch something more.

    y[rows] += (x[rows] A^T) (scale B)^T            model/adapter.py has the formula

The model knows nothing of it. A forward hook on every matrix of its blocks adds what the step under way asks for; rows
that ask for nothing are not touched. Requests with the same adapter are computed together, whatever lies between them.
The hook is the first of its matrix: where the matrix is a slice, the ranks add up what there is by then (parallel.py).

The plan of a step belongs to the thread that runs it: a model may be shared by two engines, or be used beside one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from danlu.model.low_rank import LowRankLinear
from danlu.model.quantized import QuantizedLinear

if TYPE_CHECKING:
    from danlu.model.adapter import Adapter
    from danlu.model.transformer import Transformer

Weights = dict[str, list[tuple[int, Tensor, Tensor]]]  # module -> (first row, A [r, K], scale B [N, r])
Plan = list[tuple[Tensor, Weights]]  # rows of the batch, and what they get


def weights_of(adapter: Adapter, dtype: torch.dtype, device: torch.device) -> Weights:
    weights: Weights = {}
    for part in adapter.parts:
        a, b = part.a.to(device, dtype), (part.scale * part.b.float()).to(device, dtype)
        weights.setdefault(part.module, []).append((part.first, a, b))
    return weights


class AdapterHooks:
    """The hooks on one model. They go when this goes."""

    def __init__(self, model: Transformer) -> None:
        self._now = threading.local()
        handles = [
            module.register_forward_hook(_hook(name, self._now), prepend=True)
            for name, module in model.named_modules()
            if name.startswith("blocks.") and isinstance(module, nn.Linear | QuantizedLinear | LowRankLinear)
        ]
        weakref.finalize(self, _remove, handles)

    @contextmanager
    def applied(self, plan: Plan) -> Iterator[None]:
        """Inside, what this thread computes with the model follows `plan`."""
        self._now.plan = plan
        try:
            yield
        finally:
            self._now.plan = []


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def _hook(name: str, now: threading.local) -> Any:
    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """inputs [1, T, K], output [1, T, N], which is changed in place."""
        for rows, weights in getattr(now, "plan", ()):
            for first, a, b in weights.get(name, ()):
                x = inputs[0][0].index_select(0, rows)  # [R, K]
                more = F.linear(F.linear(x, a.to(x.dtype)), b.to(x.dtype))  # [R, n]
                output[0].narrow(1, first, b.shape[0]).index_add_(0, rows, more)

    return add
