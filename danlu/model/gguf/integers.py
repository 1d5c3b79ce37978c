"""Weights that danlu has quantised already, in GGUF's blocks, number for number.

    danlu   w = scale * (q - zero)      q int8 [N, K], one scale (and zero point) for each group of a row
    GGUF    w = d * q  (Q8_0, Q4_0)     w = d * q + m  (Q4_1)                       in blocks of 32 of a row

A group is a multiple of 32 or the whole row: its scale is repeated in each of its blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from danlu.model.gguf.blocks import Bytes
from danlu.model.gguf.pack import q4_0, q4_1, q8_0
from danlu.model.quantized import QuantizedEmbedding, QuantizedLinear

BLOCK = 32


@dataclass(frozen=True)
class Integers:
    """values int8 `[N, K]`, scale `[N, G]`, zero `[N, G]` or None: w = scale * (values - zero)."""

    values: Tensor
    scale: Tensor
    zero: Tensor | None

    @staticmethod
    def shape(module: nn.Module) -> tuple[int, int] | None:
        """[N, K] of a quantised module, None of another."""
        return (module.rows, module.columns) if isinstance(module, (QuantizedLinear, QuantizedEmbedding)) else None

    def rows(self, rows: Tensor) -> Integers:
        return Integers(self.values[rows], self.scale[rows], None if self.zero is None else self.zero[rows])

    def floats(self) -> Tensor:
        """[N, K] float32."""
        group = self.values.shape[1] // self.scale.shape[1]
        wide = self.values.float().unflatten(1, (-1, group))
        wide = wide if self.zero is None else wide - self.zero.float()[..., None]
        return (wide * self.scale.float()[..., None]).flatten(1)


def integers(module: nn.Module) -> Integers | None:
    """The numbers of a quantised module, None for one of floats."""
    if not isinstance(module, (QuantizedLinear, QuantizedEmbedding)):
        return None
    return Integers(module.values(), module.weight_scale.detach(), None)


def kept_type(module: nn.Module) -> str | None:
    """The type that holds a quantised module's own numbers; F16 where its rows are no whole blocks."""
    if not isinstance(module, (QuantizedLinear, QuantizedEmbedding)):
        return None
    if module.columns % BLOCK:
        return "F16"
    return {8: "Q8_0", 4: "Q4_0"}[module.scheme.bits]


def packed(numbers: Integers, kind: str) -> Bytes:
    """The bytes of whole rows in the type that `kept_type` names."""
    repeats = numbers.values.shape[1] // BLOCK // numbers.scale.shape[1]

    def per_block(each: Tensor) -> Tensor:
        return each.float().repeat_interleave(repeats, dim=1).reshape(-1, 1)

    q, d = numbers.values.reshape(-1, BLOCK), per_block(numbers.scale)
    if kind == "Q4_1":
        assert numbers.zero is not None
        return q4_1(d, -d * per_block(numbers.zero), q).reshape(-1)
    return (q8_0 if kind == "Q8_0" else q4_0)(d, q).reshape(-1)
