"""A model walked through block by block, with the inputs that its matrices see.

What a matrix may lose depends on what it is fed. Here text goes through the blocks one after another, and at every
matrix the caller is shown the inputs and may change it; the next one sees what the changed one gives:

    x --norm--> qkv --attention--> out --+--> norm --> gate_up --> down --+--> next block
         [visit]        [visit]          x        [visit]    [visit]      x

One block is in memory in floats at a time, and the text as hidden states: that is what lets a model of several
billion parameters through on a small machine (`memory`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from danlu.model.attention import CausalContext
from danlu.model.transformer import Transformer

Visit = Callable[[str, nn.Module, Tensor], None]  # name in the block, the matrix, its inputs [rows, K]
AT_ONCE = 4096  # tokens that go through a part of a block together


def matrix_names(block: Any) -> tuple[str, ...]:
    """The matrices of a block in the order in which they are reached."""
    return "attention.qkv", "attention.out", "mlp.gate_up" if hasattr(block.mlp, "gate_up") else "mlp.up", "mlp.down"


class Walk:
    """Hidden states of some text, on their way through a model's blocks.

    model: for its rotary tables and config; its embedding must have its numbers, its blocks need none.
    """

    def __init__(self, model: Transformer, ids: Tensor) -> None:
        """ids [n, T]."""
        self.hidden = model.embedding(ids).float()  # [n, T, D]
        length = ids.shape[1]
        self._rotary = None
        if model.rotary is not None:
            self._rotary = model.rotary.tables(None, length, ids.device)
        elif model.position_embedding is not None:
            self.hidden += model.position_embedding(torch.arange(length))
        self._context = CausalContext()

    def through(self, block: Any, visit: Visit | None = None) -> None:
        """Move on by one block, and show every matrix on the way."""
        up = matrix_names(block)[2]

        def show(name: str, inputs: list[Tensor]) -> None:
            if visit is not None:
                visit(name, block.get_submodule(name), torch.cat([part.flatten(0, 1) for part in inputs]))

        def attend(x: Tensor) -> Tensor:
            return block.attention(block.attention_norm(x), self._rotary, self._context)

        def inner(x: Tensor) -> Tensor:
            return block.mlp(block.mlp_norm(x))

        show("attention.qkv", [block.attention_norm(x) for x in self._parts()])
        self._add(block.attention, "out", attend, lambda inputs: show("attention.out", inputs))
        show(up, [block.mlp_norm(x) for x in self._parts()])
        self._add(block.mlp, "down", inner, lambda inputs: show("mlp.down", inputs))

    def _add(
        self, part: nn.Module, last: str, run: Callable[[Tensor], Tensor], show: Callable[[list[Tensor]], None]
    ) -> None:
        """hidden += run(hidden), in two steps: up to the matrix `last` of `part`, and through it."""
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
