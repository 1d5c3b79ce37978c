"""Weights that a model sees on a grid while floats behind them are trained; and a teacher's predictions as the loss.

What and why: `danlu.compress.qat`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from danlu.kernels import grid
from danlu.kernels.grid import Grid
from danlu.model.quantized import Scheme, empty_twin
from danlu.model.transformer import Transformer
from danlu.train.constraint import Constraint
from danlu.train.divergence import divergence
from danlu.train.loop import Loss, Micro, head_weight, micro_hidden
from danlu.train.loss import IGNORE, cross_entropy


class Rounded(Constraint):
    """The matrices that `plan` names, on the grids that rounding to nearest gives the model as it is now."""

    def __init__(self, model: Transformer, plan: Mapping[str, Scheme]) -> None:
        self.model, self.plan = model, plan
        self.params: dict[str, nn.Parameter] = {name: model.get_parameter(f"{name}.weight") for name in plan}
        self.grids: dict[str, tuple[Tensor, Tensor | None]] = {}  # scale and zero point [N, G]
        for name, scheme in plan.items():
            found = grid.fit(self.params[name], scheme.bits, scheme.group, scheme.symmetric)
            self.grids[name] = found.scale, found.zero

    @contextmanager
    def shown(self) -> Iterator[None]:
        floats = {name: param.data for name, param in self.params.items()}
        for name, param in self.params.items():
            param.data = self.on_grid(name).widen()
        try:
            yield
        finally:
            for name, param in self.params.items():
                param.data = floats[name]

    @torch.no_grad()
    def after_update(self) -> None:
        for name, param in self.params.items():
            scale, zero = self._wide(name)
            low, high = grid.levels(self.plan[name].bits, zero is None)
            shift = 0 if zero is None else zero
            ends = scale * (low - 0.5 - shift), scale * (high + 0.5 - shift)
            groups = param.unflatten(1, (scale.shape[1], -1))
            groups.copy_(groups.clamp(torch.minimum(*ends), torch.maximum(*ends)))  # a scale may be negative

    def settle(self) -> None:
        """Swap the matrices for stored ones."""
        for name, scheme in self.plan.items():
            twin = empty_twin(self.model.get_submodule(name), scheme, name)
            twin.put(scheme.store(self.on_grid(name)))
            self.model.set_submodule(name, twin)

    @torch.no_grad()
    def on_grid(self, name: str) -> Grid:
        """The trained floats of a matrix, rounded."""
        scale, zero = self._wide(name)
        groups = self.params[name].unflatten(1, (scale.shape[1], -1))
        values = grid.round_to(groups, scale, zero, self.plan[name].bits)
        return Grid(values.flatten(1).to(torch.int8), *self.grids[name])

    def _wide(self, name: str) -> tuple[Tensor, Tensor | None]:
        scale, zero = self.grids[name]
        return scale[..., None], None if zero is None else zero.float()[..., None]


def towards(teacher: Transformer, share: float) -> Loss:
    """The loss that is, to `share`, the divergence from what `teacher` predicts, and cross-entropy for the rest."""

    def loss(student: nn.Module, micro: Micro, device: torch.device) -> tuple[Tensor, int]:
        hidden = micro_hidden(student, micro, device)  # [B, T, D]
        with torch.no_grad():
            theirs = micro_hidden(teacher, micro, device)
        asked = micro.targets.to(device) != IGNORE
        apart = divergence(hidden[asked], head_weight(student), theirs[asked], head_weight(teacher))
        if share == 1:
            return apart, int(asked.sum())
        text, counted = cross_entropy(hidden, head_weight(student), micro.targets.to(device))
        return share * apart + (1 - share) * text, counted

    return loss
