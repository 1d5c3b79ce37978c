"""Which part of a model, and of an adapter, a rank has (parallel.py says why it is cut like this).

Worked example, two ranks, heads of 8, 4 query and 2 KV heads: qkv has 32 rows of q, 16 of k, 16 of v.

    qkv W          rank 1 has the rows 16..31 | 40..47 | 56..63, a matrix of 32 rows
    adapter B A    for k (rows 32..47): rank 1 has the rows 8..15 of B, for its rows 16..23, and all of A
    out W          rank 1 has the columns 16..31
    adapter B A    rank 1 has the columns 16..31 of A and all of B: what the ranks add up to is B A x
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from danlu.core.errors import UserError
from danlu.model.adapter import Adapter, LowRank
from danlu.model.config import ModelConfig
from danlu.model.low_rank import ranks_of
from danlu.model.transformer import Transformer, fused_rows

BY_ROWS = ("attention.qkv", "mlp.gate_up", "mlp.up")
BY_COLUMNS = ("attention.out", "mlp.down")


def check_division(model: Transformer, size: int) -> None:
    """Raises UserError, with the numbers, when `model` cannot be cut into `size` equal parts."""
    problem = _division_problem(model, size)
    if problem:
        config = model.config
        possible = [n for n in range(1, config.n_kv_heads + 1) if not _division_problem(model, n)]
        raise UserError(f"tensor_parallel is {size}, but {problem}", "possible: " + ", ".join(map(str, possible)))


def _division_problem(model: Transformer, size: int) -> str:
    config = model.config
    if config.n_kv_heads % size:
        return f"the model's {config.n_kv_heads} KV heads cannot be shared by {size}"
    if config.intermediate_size % size:
        return f"the MLP's width of {config.intermediate_size} is not a multiple of {size}"
    if size > 1 and ranks_of(model):
        return "the model's matrices are products of two (low rank), which are not cut"
    out: Any = model.blocks[0].attention.out  # type: ignore[union-attr]
    group = getattr(getattr(out, "scheme", None), "group", None)
    for name, width in (
        ("attention's output", config.n_heads * config.head_dim), ("MLP's width", config.intermediate_size)
    ):  # fmt: skip
        if group and size > 1 and width // size % group:
            return f"{width // size} of the {name} of {width} are not whole groups of {group} quantised weights"
    return ""


def cut(name: str, tensor: Tensor, rank: int, size: int, config: ModelConfig) -> Tensor:
    """What `rank` keeps of the tensor `name` of a whole model: a view or a small copy.

    Quantised matrices have their output rows first too, and their scales are cut as they are.
    """
    module, _, kind = name.rpartition(".")
    if module in ("embedding", "lm_head"):
        return tensor[vocabulary(config, rank, size)]
    if module.endswith(BY_ROWS):
        rows = fused_rows(config, module) or (len(tensor),)
        parts = tensor.split([own * len(tensor) // sum(rows) for own in rows])  # packed zero points have fewer
        return torch.cat([part.chunk(size)[rank] for part in parts])
    if module.endswith(BY_COLUMNS):
        if kind == "bias":
            return tensor if rank == 0 else torch.zeros_like(tensor)  # a sum over ranks must have it once
        one_scale_a_row = kind == "weight_scale" and tensor.shape[1] == 1
        return tensor if one_scale_a_row else tensor.chunk(size, dim=1)[rank]
    return tensor


def vocabulary(config: ModelConfig, rank: int, size: int) -> slice:
    """The tokens of a rank. The last rank has fewer when they do not divide."""
    width = -(-config.vocab_size // size)
    return slice(rank * width, min((rank + 1) * width, config.vocab_size))


def cut_adapter(adapter: Adapter, rank: int, size: int, config: ModelConfig) -> Adapter:
    """What `rank` keeps of an adapter for a whole model of `config`; its places are those of the rank's own model."""
    return replace(adapter, parts=tuple(_cut_part(part, rank, size, config) for part in adapter.parts))


def packed(adapter: Adapter) -> tuple[list[tuple[str, int, float]], bytes]:
    """An adapter as plain values, to go through a pipe."""
    tensors = {f"{i}.{name}": x.contiguous() for i, part in enumerate(adapter.parts) for name, x in _matrices(part)}
    return [(part.module, part.first, part.scale) for part in adapter.parts], safetensors.torch.save(tensors)


def unpacked(values: tuple[list[tuple[str, int, float]], bytes]) -> Adapter:
    places, data = values
    tensors = safetensors.torch.load(data)
    return Adapter(tuple(
        LowRank(module, first, tensors[f"{i}.a"], tensors[f"{i}.b"], scale)
        for i, (module, first, scale) in enumerate(places)
    ))  # fmt: skip


def _matrices(part: LowRank) -> tuple[tuple[str, Tensor], ...]:
    return ("a", part.a), ("b", part.b)


def _cut_part(part: LowRank, rank: int, size: int, config: ModelConfig) -> LowRank:
    if part.module.endswith(BY_COLUMNS):
        return replace(part, a=part.a.chunk(size, dim=1)[rank])
    first, n = part.first, len(part.b)
    rows = _rows_of(part.module, rank, size, config, first + n)
    here = ((rows >= first) & (rows < first + n)).nonzero()[:, 0]
    assert len(here) == n // size == here[-1] - here[0] + 1, "a part is one matrix of the family, or several in a row"
    return replace(part, first=int(here[0]), b=part.b[rows[here] - first])


def _rows_of(module: str, rank: int, size: int, config: ModelConfig, height: int) -> Tensor:
    """Of each row that a rank has of a matrix cut by rows: which one it is in the whole matrix."""
    sizes = fused_rows(config, module) or (height,)
    return torch.cat([rows.chunk(size)[rank] for rows in torch.arange(sum(sizes)).split(sizes)])
