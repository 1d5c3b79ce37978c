"""A model as the tensors of a GGUF file: cut, put in llama.cpp's order and quantised, piece by piece.

One module is read at a time (hub.Checkpoint lends it), its rows are cut into the tensors that llama.cpp knows (query,
key, value), put into its order (names.py), and quantised about a million weights at a time. Memory holds one module as
it is stored and a few megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from danlu.core.errors import UserError
from danlu.kernels.grid import Grid
from danlu.model.finite import require_finite
from danlu.model.gguf.blocks import Bytes, dequantize
from danlu.model.gguf.kept import kept_type, packed, rows_of
from danlu.model.gguf.load import load_gguf
from danlu.model.gguf.mixture import is_vector, tensor_type
from danlu.model.gguf.names import architecture_of, gguf_parts, is_interleaved, neighbours
from danlu.model.gguf.pack import quantize
from danlu.model.gguf.writer import NewTensor
from danlu.model.hub import Checkpoint, load_tokenizer
from danlu.model.low_rank import LowRankLinear
from danlu.model.quantized import Quantized
from danlu.model.transformer import Transformer, fused_rows

if TYPE_CHECKING:
    from danlu.tokenizer.tokenizer import Tokenizer

AS_IS = "as-is"
PIECE = 1 << 20  # weights at a time
_FLOATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Part:
    """One tensor of the file: rows `first` to `first + tensor.shape[0]` of a tensor of `module`."""

    module: str
    kind: str  # weight, bias
    first: int
    tensor: NewTensor
    kept: bool  # whole numbers that stay what they are
    interleaved: bool


@dataclass
class Loss:
    """Squares of weights and of their errors, for tensors that were rounded."""

    errors: dict[str, float] = field(default_factory=dict)  # relative, by tensor
    total: float = 0.0
    lost: float = 0.0

    def add(self, name: str, square: float, lost: float) -> None:
        self.errors[name] = (lost / square) ** 0.5 if square else 0.0
        self.total, self.lost = self.total + square, self.lost + lost


class Source:
    """The model, lent module by module, and its tokenizer."""

    def __init__(self, path: Path, kind: str) -> None:
        self.tokenizer: Tokenizer | None
        self.model: Transformer
        if path.is_file():
            if kind == AS_IS:
                raise UserError(f"{path.name} is a GGUF file already", "choose a --type, or copy it")
            self.model, self.tokenizer = load_gguf(path)
            self.checkpoint = None
        else:
            self.checkpoint = Checkpoint(path)
            self.model, self.tokenizer = self.checkpoint.model, load_tokenizer(path)
        self.config = self.model.config

    def lent(self, module: str) -> AbstractContextManager[None]:
        return nullcontext() if self.checkpoint is None else self.checkpoint.lent(module)

    def parts(self, kind: str) -> list[Part]:
        """Every tensor of the file, in the order of the modules."""
        name, config = architecture_of(self.config.family), self.config
        found = []
        for module, own, shape in _tensors(self.model):
            parts = gguf_parts(name, f"{module}.{own}")
            fused = fused_rows(config, module)
            rows = fused if len(parts) > 1 and fused is not None else (shape[0],)
            first = 0
            for part, count in zip(parts, rows, strict=True):
                cut = (count, *shape[1:])
                if is_vector(part, cut):
                    chosen, kept = "F32", False
                elif kind == AS_IS:
                    chosen, kept = self._own_type(module)
                else:
                    chosen = tensor_type(part, cut, kind, tied=config.tie_embeddings, n_layers=config.n_layers)
                    kept = False
                found.append(Part(module, own, first, NewTensor(part, cut, chosen), kept, is_interleaved(name, part)))
                first += count
        return found

    def _own_type(self, name: str) -> tuple[str, bool]:
        """The type that holds a module's weights as they are, and whether these are whole numbers."""
        module: Any = self.model.get_submodule(name)
        if (kept := kept_type(module)) is not None:
            return kept, kept != "F16"
        return _FLOATS[module.weight_left.dtype if isinstance(module, LowRankLinear) else module.weight.dtype], False

    def pieces(self, parts: list[Part], loss: Loss) -> Iterator[Bytes]:
        """The bytes of all parts, some rows at a time. Raises UserError for numbers that a type cannot hold."""
        for part in parts:
            with self.lent(part.module):
                require_finite(self.model.get_submodule(part.module), part.module, "the model")
                yield from self._bytes(part, loss)

    def _bytes(self, part: Part, loss: Loss) -> Iterator[Bytes]:
        module, (new, kind) = self.model.get_submodule(part.module), (part.tensor, part.tensor.type)
        order = torch.arange(part.first, part.first + new.shape[0])
        if part.interleaved:
            order = neighbours(order, self.config.head_dim)
        numbers, square, lost = _numbers(module, part.kind), 0.0, 0.0
        for rows in order.split(max(1, PIECE // new.shape[-1])) if len(new.shape) > 1 else (order,):
            if part.kept:
                assert isinstance(numbers, Grid)
                yield packed(rows_of(numbers, rows), kind)
                continue
            weights = rows_of(numbers, rows).widen() if isinstance(numbers, Grid) else _take(numbers, rows).float()
            raw = quantize(weights, kind)
            yield raw
            values = weights.numpy().reshape(-1)
            square += float(np.square(values, dtype=np.float64).sum())
            lost += float(np.square(dequantize(raw, kind) - values, dtype=np.float64).sum())
        if not np.isfinite(lost):
            raise UserError(f"{new.name} has numbers that {kind} cannot hold", "choose another --type, as BF16")
        if kind != "F32" and not part.kept:
            loss.add(new.name, square, lost)


def _numbers(module: nn.Module, kind: str) -> Grid | Tensor:
    """The weight or the bias of a module."""
    if isinstance(module, Quantized) and kind == "weight":
        return module.grid() if module.on_grid else module.widen()
    if isinstance(module, LowRankLinear) and kind == "weight":
        return module.weight.detach()
    return module.get_parameter(kind).detach()


def _take(tensor: Tensor, rows: Tensor) -> Tensor:
    """Rows of a tensor, a view where they are neighbours."""
    first = int(rows[0])
    return tensor[first : first + len(rows)] if bool((rows.diff() == 1).all()) else tensor[rows]


def _tensors(model: Transformer) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(module, "weight" or "bias", shape) of everything that is learned."""
    for name, module in model.named_modules():
        if isinstance(module, Quantized):
            yield name, "weight", (module.rows, module.columns)
            names = [kind for kind, _ in module.named_parameters(recurse=False) if kind == "bias"]
        elif isinstance(module, LowRankLinear):
            yield name, "weight", (module.out_features, module.in_features)  # multiplied out
            names = [] if module.bias is None else ["bias"]
        else:
            names = [kind for kind, _ in module.named_parameters(recurse=False)]
        for kind in names:
            yield name, kind, tuple(module.get_parameter(kind).shape)
