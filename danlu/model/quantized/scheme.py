"""One way to store a matrix [N, K] in fewer bits.

| scheme       | stored                                                    | bits a weight | format          |
|--------------|-----------------------------------------------------------|---------------|-----------------|
| 8 bits, rows | weight int8 [N, K], weight_scale [N, 1]                   | 8 + 32 / K    | int-quantized   |
| 8 bits, g    | weight int8 [N, K], weight_scale [N, K / g]               | 8 + 16 / g    | int-quantized   |
| 4 bits, g    | weight_packed int32 [N, K / 8], weight_scale [N, K / g]   | 4 + 16 / g    | pack-quantized  |
| with zeros   | and weight_zero_point int8 [N, G]; of 4 bits packed down  | and bits / g  | as above        |
|              | the rows, int32 [N / 8, G]                                |               |                 |
| float8       | weight float8_e4m3 [N, K], weight_scale [N, 1]            | 8 + 32 / K    | float-quantized |
| nf4          | weight_packed int32 [N, K / 8], weight_scale [N, K / 64]  | 4 + 16 / 64   | nf4 (danlu's)   |

g is a group of neighbours in a row, kernels/grid.py says what the numbers mean. Names and layouts are those of the
compressed-tensors format. All have the output rows first, so whatever cuts or joins rows treats them alike: a file's
q_proj, k_proj and v_proj become the model's one `qkv` by joining weights, scales and zero points, and nothing is
quantised twice.

NF4 (QLoRA, arXiv:2305.14314, appendix E) has no arithmetic of its own: its sixteen levels are quantiles of a normal
distribution, looked up and then multiplied as floats. It is a way to store, as float8 is: nothing here multiplies in
float8. Worked example, NF4, a group whose largest number is 2: the scale is 2, a 1 in it is 0.5, the nearest level is
0.441, and it is read as 0.88.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from danlu.core.errors import UserError
from danlu.kernels import grid
from danlu.kernels.grid import Grid

GROUPS = (None, 32, 64, 128)
_FORMATS = {
    ("int", 8): "int-quantized",
    ("int", 4): "pack-quantized",
    ("float8", 8): "float-quantized",
    ("nf4", 4): "nf4",
}
FLOAT8_MAX = 448.0  # the largest number of e4m3
NF4_LEVELS = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip  # the constants of the paper


@dataclass(frozen=True)
class Scheme:
    """kind: int, float8 or nf4. group: weights that share a scale; None: a whole row."""

    bits: int = 8
    group: int | None = None
    symmetric: bool = True
    kind: str = "int"

    @property
    def format(self) -> str:
        return _FORMATS[self.kind, self.bits]

    @property
    def packed(self) -> bool:
        return self.bits == 4

    @property
    def weight_name(self) -> str:
        return "weight_packed" if self.packed else "weight"

    @property
    def weight_dtype(self) -> torch.dtype:
        return torch.int32 if self.packed else torch.float8_e4m3fn if self.kind == "float8" else torch.int8

    @property
    def scale_dtype(self) -> torch.dtype:
        """A scale a row follows the model's dtype; those of groups stay float16."""
        return torch.float16 if self.group else torch.float32

    @property
    def bits_per_weight(self) -> float:
        """Without the scales of whole rows, which are next to nothing."""
        each = 0 if self.group is None else 16 + (0 if self.symmetric else self.bits)
        return self.bits + each / (self.group or 1)

    def check(self, rows: int, columns: int, name: str) -> None:
        """Raises UserError for a matrix that does not divide."""
        if columns % (self.group or 1) or (self.packed and columns % 8):
            fit = (
                [str(g or "row") for g in GROUPS if not columns % (8 if g is None else g)] if self.kind == "int" else []
            )
            raise UserError(
                f"{name} has {columns} columns, which is not a multiple of {self.group or 8}",
                f"groups that fit: {', '.join(fit)}; or take 8 bits" if fit else "take 8 bits in rows",
            )
        if self.packed and not self.symmetric and rows % 8:
            raise UserError(
                f"{name} has {rows} rows, which is not a multiple of 8",
                "zero points of 4 bits need that; use symmetric",
            )

    def shapes(self, rows: int, columns: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """The tensors of a matrix [rows, columns], by name."""
        groups = columns // self.group if self.group else 1
        tensors: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            self.weight_name: ((rows, columns // 8 if self.packed else columns), self.weight_dtype),
            "weight_scale": ((rows, groups), self.scale_dtype),
        }
        if not self.symmetric:
            shape = (rows // 8 if self.packed else rows, groups)
            tensors["weight_zero_point"] = (shape, torch.int32 if self.packed else torch.int8)
        return tensors

    def bytes(self, rows: int, columns: int) -> int:
        """Of a matrix [rows, columns], in a file."""
        return sum(shape[0] * shape[1] * dtype.itemsize for shape, dtype in self.shapes(rows, columns).values())

    def rounded(self, weight: Tensor, importance: Tensor | None = None) -> Tensor:
        """`weight` [N, K] to nearest, in float32 again; of schemes of whole numbers."""
        return grid.fit(weight, self.bits, self.group, self.symmetric, importance).widen()

    def round(self, weight: Tensor, importance: Tensor | None = None) -> dict[str, Tensor]:
        """`weight` [N, K] rounded to nearest, as the tensors of `shapes`. `importance` [K] of the columns' errors."""
        if self.kind == "float8":
            scale = (weight.float().abs().amax(dim=1, keepdim=True) / FLOAT8_MAX).clamp_min_(1e-12)
            return {"weight": (weight.float() / scale).to(torch.float8_e4m3fn), "weight_scale": scale}
        if self.kind == "nf4":
            return self._round_nf4(weight)
        return self.store(grid.fit(weight, self.bits, self.group, self.symmetric, importance))

    def store(self, found: Grid) -> dict[str, Tensor]:
        """A grid as the tensors of `shapes`."""
        values = grid.pack(found.values) if self.packed else found.values
        tensors = {self.weight_name: values, "weight_scale": found.scale.to(self.scale_dtype)}
        if found.zero is not None:
            zero = grid.pack(found.zero.t().contiguous()).t().contiguous() if self.packed else found.zero
            tensors["weight_zero_point"] = zero
        return tensors

    def zero(self, stored: Tensor | None) -> Tensor | None:
        """Zero points as int8 [N, G]."""
        if stored is None or not self.packed:
            return stored
        return grid.unpack(stored.t().contiguous()).t()

    def widen(self, weight: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The stored weight, its scale and int8 zero points -> [N, K] in `dtype`."""
        if self.kind == "float8":
            return (weight.float() * scale.float()).to(dtype)
        values = grid.unpack(weight) if self.packed else weight
        if self.kind == "nf4":
            levels = NF4_LEVELS.to(weight.device)[values.long() + 8].unflatten(1, (scale.shape[1], -1))
            return (levels * scale.float()[..., None]).flatten(1).to(dtype)
        return grid.widen(values, scale, zero, dtype)

    def _round_nf4(self, weight: Tensor) -> dict[str, Tensor]:
        assert self.group is not None
        groups = weight.float().unflatten(1, (-1, self.group))
        scale = groups.abs().amax(dim=2).half().clamp_min_(2**-24)
        borders = (NF4_LEVELS[1:] + NF4_LEVELS[:-1]) / 2
        index = torch.bucketize((groups / scale.float()[..., None]).flatten(1).contiguous(), borders.to(weight.device))
        return {"weight_packed": grid.pack((index - 8).to(torch.int8)), "weight_scale": scale}

    def to_json(self) -> dict[str, Any]:
        """The `weights` entry of a config group."""
        return {
            "num_bits": self.bits,
            "type": "float" if self.kind == "float8" else self.kind,
            "strategy": "group" if self.group else "channel",
            "symmetric": self.symmetric,
            "dynamic": False,
            "group_size": self.group,
            "block_structure": None,
            "actorder": None,
            "observer": "minmax",
            "observer_kwargs": {},
        }


def scheme_from_json(weights: Mapping[str, Any], form: str | None, name: str) -> Scheme:
    """The scheme of a config group. Raises UserError for one that danlu does not read."""
    kind, strategy, bits = weights.get("type"), weights.get("strategy"), weights.get("num_bits")
    own = "float8" if kind == "float" else str(kind)
    if not isinstance(bits, int) or _FORMATS.get((own, bits), "") != form or strategy not in ("group", "channel"):
        raise UserError(
            f'{name} has {bits} bits of type "{kind}", strategy "{strategy}", format "{form}"',
            "danlu reads 8 bits as int-quantized or float-quantized and 4 bits as pack-quantized, by channel or group",
        )
    if weights.get("actorder") not in (None, "static", "weight"):
        raise UserError(
            f'{name} orders its columns by "{weights["actorder"]}"', "danlu reads groups of neighbours only"
        )
    group = weights.get("group_size") if strategy == "group" else None
    if group not in GROUPS:
        raise UserError(f"{name} has groups of {group}", "danlu reads " + ", ".join(str(g) for g in GROUPS if g))
    return Scheme(bits, group, bool(weights.get("symmetric", True)), own)


HEAD = Scheme(8)  # of an embedding and a head beside weights in 4 bits
FLOAT8 = Scheme(8, kind="float8")
NF4 = Scheme(4, 64, kind="nf4")
SCHEMES = {8: Scheme(8), 4: Scheme(4, 32)}  # what --bits alone means
