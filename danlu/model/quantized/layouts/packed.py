"""What a layout says of one matrix, and the turning over that layouts have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from danlu.core.errors import UserError, shown
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


def tensors_of(weights: Weights, part: str, whole: tuple[str, ...] = ("qweight", "qzeros")) -> dict[str, Stored]:
    """The matrices `part.key` of `whole`, read as int32, and `scales`. Raises UserError for one that is missing or no
    matrix and, when it is read, for other numbers."""
    found = {}
    for key in (*whole, "scales"):
        name = f"{part}.{key}"
        if (stored := weights.get(name)) is None:
            raise UserError(f"the weights lack {name}", "copy the model again")
        if len(stored.shape) != 2:
            raise UserError(f"{name} is {list(stored.shape)}, which is no matrix", "copy the model again")
        found[key] = _in_int32(stored, name) if key in whole else stored
    return found


def check_shapes(found: Mapping[str, Stored], part: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UserError where a tensor `part.key` has another shape."""
    for key, shape in shapes.items():
        if found[key].shape != shape:
            raise UserError(f"{part}.{key} is {list(found[key].shape)}, not {list(shape)}", "copy the model again")


def group_of(config: Mapping[str, Any], columns: int, groups: int, part: str) -> int | None:
    """Columns that share a scale. Raises UserError where config.json says something else than the scales do."""
    said = config.get("group_size")
    if groups == 1 and said in (-1, None):
        return None
    group = columns // max(groups, 1)
    if groups != 1 and said is not None and said != group:
        raise UserError(
            f"config.json has groups of {shown(said)}, and {part}.scales {groups} groups of {columns} columns",
            "config.json and the weights do not belong together",
        )
    return group


def _in_int32(stored: Stored, name: str) -> Stored:
    def read() -> Tensor:
        found = stored.read()
        if found.dtype != torch.int32:
            raise UserError(f"{name} is {str(found.dtype).removeprefix('torch.')}, not int32", "copy the model again")
        return found

    return Stored(stored.shape, read)


def turn(stored: Stored, change: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Stored:
    """`stored` turned over after `change`, which keeps its shape."""
    return Stored(stored.shape[::-1], lambda: change(stored.read()).t().contiguous())


def bytes_of(packed: Tensor) -> Tensor:
    """int32 [R, C / 4] -> int8 [R, C]: the bytes q + 128, the lowest first."""
    return (packed.contiguous().view(torch.uint8) ^ 0x80).view(torch.int8)
