"""What a layout says of one matrix, and the turning over that layouts have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from danlu.core.errors import UserError
from danlu.model.weights import Stored, Weights

MIDDLE = {4: -0x77777778, 8: 0}  # zero points that are none, as stored: eight nibbles of 8; a byte of 0


@dataclass(frozen=True)
class Packed:
    """A matrix [N, K] of a checkpoint. group None: a whole row."""

    bits: int
    group: int | None
    tensors: Weights  # by the names of scheme.py, all of them, and weight_g_idx where groups are not neighbours
    used: tuple[str, ...]  # what it is made of in the file

    def is_symmetric(self) -> bool:
        return bool((self.tensors["weight_zero_point"].read() == MIDDLE[self.bits]).all())


def tensors_of(weights: Weights, part: str, keys: tuple[str, ...]) -> dict[str, Stored]:
    """The tensors `part.key`. Raises UserError for one that is missing."""
    missing = [key for key in keys if f"{part}.{key}" not in weights]
    if missing:
        raise UserError(f"the weights lack {part}.{missing[0]}", "copy the model again")
    return {key: weights[f"{part}.{key}"] for key in keys}


def group_of(config: Mapping[str, Any], columns: int, groups: int) -> int | None:
    """Columns that share a scale."""
    return None if groups == 1 and config.get("group_size") in (-1, None) else columns // max(groups, 1)


def turn(stored: Stored, change: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Stored:
    """`stored` turned over after `change`, which keeps its shape."""
    return Stored(stored.shape[::-1], lambda: change(stored.read()).t().contiguous())


def bytes_of(packed: Tensor) -> Tensor:
    """int32 [R, C / 4] -> int8 [R, C]: the bytes q + 128, the lowest first."""
    return (packed.contiguous().view(torch.uint8) ^ 0x80).view(torch.int8)
