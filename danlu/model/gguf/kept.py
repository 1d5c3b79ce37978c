"""Weights that danlu has quantised already, in GGUF's blocks, number for number.

| danlu: scale * (q - zero), kernels/grid.py      | GGUF                                                            |
|-------------------------------------------------|-----------------------------------------------------------------|
| 8 bits, symmetric, scales of rows or groups     | Q8_0: d q                                                       |
| 4 bits, symmetric, scales of rows or groups     | Q4_0: d (q' - 8), q' = q + 8                                    |
| 4 bits with zero points                         | Q4_1: d q' + m, q' = q + 8, m = -d (zero + 8)                   |

A block has 32 weights of a row. The scale of a larger group, or of a row, is repeated in each of its blocks as float16:
what danlu keeps in float16 (groups) stays to the bit, what it keeps in float32 (rows) is rounded, and so is m. 8 bits
with zero points, float8 and NF4 have no type in GGUF.
"""

from __future__ import annotations

from torch import Tensor, nn

from danlu.core.errors import UserError
from danlu.kernels.grid import Grid
from danlu.model.gguf.blocks import Bytes
from danlu.model.gguf.pack import q4_0, q4_1, q8_0
from danlu.model.quantized import Quantized

BLOCK = 32
_TYPES = {(8, True): "Q8_0", (4, True): "Q4_0", (4, False): "Q4_1"}  # by bits, and whether without zero points


def kept_type(module: nn.Module) -> str | None:
    """The type that holds a quantised module's own numbers, None for one of floats; F16 where rows are no whole blocks.

    Raises UserError for a scheme that no type of GGUF can hold.
    """
    if not isinstance(module, Quantized):
        return None
    scheme = module.scheme
    name = _TYPES.get((scheme.bits, scheme.symmetric)) if scheme.kind == "int" else None
    if name is None:
        raise UserError(f"no type of GGUF holds the model's numbers ({scheme.format})", "choose a --type")
    return "F16" if module.columns % BLOCK else name


def rows_of(grid: Grid, rows: Tensor) -> Grid:
    return Grid(grid.values[rows], grid.scale[rows], None if grid.zero is None else grid.zero[rows])


def packed(grid: Grid, kind: str) -> Bytes:
    """The bytes of whole rows in the type that `kept_type` names."""
    repeats = grid.values.shape[1] // BLOCK // grid.scale.shape[1]

    def per_block(each: Tensor) -> Tensor:
        return each.float().repeat_interleave(repeats, dim=1).reshape(-1, 1)

    q, d = grid.values.reshape(-1, BLOCK), per_block(grid.scale)
    if grid.zero is not None:
        assert kind == "Q4_1"
        return q4_1(d, -d * (per_block(grid.zero) + 8), q.short() + 8).reshape(-1)
    return (q8_0 if kind == "Q8_0" else q4_0)(d, q).reshape(-1)
