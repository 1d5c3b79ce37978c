"""A model walked through block by block, with what its matrices are fed.

What a matrix may lose depends on what it is fed. Here text goes through the blocks one after another, and at every
matrix the caller is shown its inputs and may change it; the next one sees what the changed one gives:

    x --norm--> qkv --attention--> out --+--> norm --> gate_up --> down --+--> next block
         [visit]        [visit]          x        [visit]    [visit]      x

One block is in memory in floats at a time, and the text as hidden states: that is what lets a model of several
billion parameters through on a small machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from danlu.model.attention import CausalContext
from danlu.model.transformer import Transformer

AT_ONCE = 4096  # tokens that go through a part of a block together


@dataclass(frozen=True)
class Moments:
    """What the methods want to know of the inputs x [K] of a matrix."""

    hessian: Tensor  # sum of x x^T, [K, K]
    mean_size: Tensor  # mean |x|, [K]
    largest: Tensor  # max |x|, [K]
    count: int  # inputs seen
    cross: Tensor | None = None  # sum of y x^T, [K, K], y the input in the model before any change

    @staticmethod
    def of(inputs: list[Tensor], unchanged: list[Tensor] | None = None) -> Moments:
        """inputs: a list of [..., K]; unchanged: the same places of the text in the unchanged model."""
        parts = [part.flatten(0, -2) for part in inputs]
        width, count = parts[0].shape[1], sum(len(part) for part in parts)
        hessian, total, largest = torch.zeros(width, width), torch.zeros(width), torch.zeros(width)
        for part in parts:
            hessian.addmm_(part.t(), part)
            size = part.abs()
            total += size.sum(dim=0)
            torch.maximum(largest, size.amax(dim=0), out=largest)
        cross = None
        if unchanged is not None:
            cross = torch.zeros(width, width)
            for part, before in zip(parts, unchanged, strict=True):
                cross.addmm_(before.flatten(0, -2).t(), part)
        return Moments(hessian, total / count, largest, count, cross)

    @property
    def mean_square(self) -> Tensor:
        """mean x^2, [K]."""
        return self.hessian.diagonal() / self.count


Inputs = dict[str, list[Tensor]]  # of each matrix of a block, in parts [rows, T, K]
Visit = Callable[[str, Any, Moments], None]  # name in the block, the matrix, its inputs


def matrix_names(block: Any) -> tuple[str, ...]:
    """The matrices of a block in the order in which they are reached."""
    return "attention.qkv", "attention.out", "mlp.gate_up" if hasattr(block.mlp, "gate_up") else "mlp.up", "mlp.down"


class Walk:
    """Hidden states of some text, on their way through a model's blocks."""

    @torch.no_grad()
    def __init__(self, model: Transformer, ids: Tensor) -> None:
        """ids [n, T]. Of `model` the embedding and positions must have their numbers; its blocks need none."""
        self.hidden = model.embedding(ids).float()  # [n, T, D]
        length = ids.shape[1]
        self._rotary = None
        if model.rotary is not None:
            self._rotary = model.rotary.tables(None, length, ids.device)
        elif model.position_embedding is not None:
            self.hidden += model.position_embedding(torch.arange(length))
        self._context = CausalContext()

    @torch.no_grad()
    def through(self, block: Any, visit: Visit | None = None, unchanged: Inputs | None = None) -> None:
        """Move on by one block, and show every matrix on the way. `unchanged` is what `inputs` gave for that model."""
        if visit is None:
            self._through(block, None)
            return

        def show(name: str, inputs: list[Tensor]) -> None:
            visit(name, block.get_submodule(name), Moments.of(inputs, unchanged[name] if unchanged else None))

        self._through(block, show)

    def step(self, block: Any, x: Tensor) -> Tensor:
        """Rows x [n, T, D] through a block, to be differentiated; the walk itself does not move."""
        x, added = block(x, None, self._rotary, self._context)
        return x + added

    @torch.no_grad()
    def inputs(self, block: Any) -> Inputs:
        """Move on by one block; the inputs of its matrices, in parts."""
        found: Inputs = {}
        self._through(block, lambda name, inputs: found.update({name: inputs}))
        return found

    @torch.no_grad()
    def moments(self, block: Any) -> dict[str, Moments]:
        """What each matrix of `block` is fed, without moving on."""
        here = self.hidden.clone()
        found: dict[str, Moments] = {}
        self._through(block, lambda name, inputs: found.update({name: Moments.of(inputs)}))
        self.hidden = here
        return found

    def _through(self, block: Any, show: Callable[[str, list[Tensor]], None] | None) -> None:
        up = matrix_names(block)[2]

        def attend(x: Tensor) -> Tensor:
            return block.attention(block.attention_norm(x), self._rotary, self._context)

        def inner(x: Tensor) -> Tensor:
            return block.mlp(block.mlp_norm(x))

        if show is not None:
            show("attention.qkv", [block.attention_norm(x) for x in self._parts()])
        self._add(block.attention, "out", attend, show and (lambda inputs: show("attention.out", inputs)))
        if show is not None:
            show(up, [block.mlp_norm(x) for x in self._parts()])
        self._add(block.mlp, "down", inner, show and (lambda inputs: show("mlp.down", inputs)))

    def _add(
        self, part: nn.Module, last: str, run: Callable[[Tensor], Tensor], show: Callable[[list[Tensor]], None] | None
    ) -> None:
        """hidden += run(hidden), in two steps: up to the matrix `last` of `part`, and through it."""
        if show is None:
            for x in self._parts():
                x += run(x)
            return
        matrix = getattr(part, last)
        setattr(part, last, nn.Identity())
        inputs = [run(x) for x in self._parts()]
        setattr(part, last, matrix)
        show(inputs)
        matrix = getattr(part, last)
        for x, own in zip(self._parts(), inputs, strict=True):
            x += matrix(own)

    def _parts(self) -> Iterator[Tensor]:
        rows = max(1, AT_ONCE // self.hidden.shape[1])
        return iter(self.hidden.split(rows))
