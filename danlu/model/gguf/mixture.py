"""Which tensor gets which type, given the one type that a user asks for.

The choice is that of llama.cpp's own quantiser, so that files are of equal size and behave alike:

| tensor                                      | F16, BF16 | Q8_0 | Q4_0, Q4_1, Q6_K | Q4_K ("Q4_K_M") |
|---------------------------------------------|-----------|------|------------------|-----------------|
| vectors, norms, a table of positions        | F32       | F32  | F32              | F32             |
| output, or the embedding where it is both   | as asked  | Q8_0 | Q6_K             | Q6_K            |
| attn_v and ffn_down of every layer i of n   | as asked  | Q8_0 | as asked         | Q6_K            |
|   with i < n/8, i >= 7n/8, (i - n/8) % 3 = 2 |          |      |                  |                 |
| attn_qkv, where the three are one           | as asked  | Q8_0 | as asked         | Q5_K            |
| all others                                  | as asked  | Q8_0 | as asked         | Q4_K            |

The K types have blocks of 256 weights of a row. Where a row is no multiple of that, Q4_K becomes Q5_0, Q5_K Q5_1 and
Q6_K Q8_0, which have blocks of 32; and where it is no multiple of 32 either, F16. So SmolLM2-135M, 576 wide, has hardly
a tensor of 4 bits in a Q4_K file.

Source: llama.cpp, llama-quant.cpp, without an importance matrix.
"""

from __future__ import annotations

import re

from danlu.model.gguf.blocks import BLOCK_TYPES

# type -> the number that llama.cpp has for a file of it (general.file_type)
FILE_TYPES = {
    "F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q4_K": 15, "Q5_K": 17,
    "Q6_K": 18,
}  # fmt: skip
_NARROW = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_FLOATS = ("F32", "F16", "BF16")


def tensor_type(name: str, shape: tuple[int, ...], wanted: str, *, tied: bool, n_layers: int) -> str:
    """The type of the tensor `name` in a file of type `wanted`; `tied`: the embedding is the head as well.

    >>> tensor_type("blk.0.ffn_down.weight", (512, 1536), "Q4_K", tied=True, n_layers=8)
    'Q6_K'
    """
    if is_vector(name, shape):
        return "F32"
    if wanted in _FLOATS:
        return wanted
    return fitting(_mixed(name, wanted, tied, n_layers), shape[-1])


def is_vector(name: str, shape: tuple[int, ...]) -> bool:
    """Whether it is kept in float32 whatever the file's type."""
    return len(shape) < 2 or name == "position_embd.weight"


def fitting(kind: str, columns: int) -> str:
    """`kind`, or what stands in for it where rows of so many columns do not divide into its blocks."""
    if columns % BLOCK_TYPES[kind].values:
        kind = _NARROW.get(kind, "F16")
    return "F16" if columns % BLOCK_TYPES[kind].values else kind


def _mixed(name: str, wanted: str, tied: bool, n_layers: int) -> str:
    if wanted == "Q8_0":
        return wanted
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return "Q6_K"
    if wanted != "Q4_K":
        return wanted
    layer = re.fullmatch(r"blk\.(\d+)\.(attn_v|ffn_down)\.weight", name)
    if layer and _matters(int(layer[1]), n_layers):
        return "Q6_K"
    return "Q5_K" if name.endswith("attn_qkv.weight") else "Q4_K"


def _matters(layer: int, n_layers: int) -> bool:
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2
