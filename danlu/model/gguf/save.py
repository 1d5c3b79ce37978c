"""A model as a GGUF file: `load.py` backwards.

    danlu export MODEL DIRECTORY --to gguf --type Q4_K

One module of the model is read at a time, its rows are cut into the tensors that llama.cpp knows (query, key, value),
put into its order, and quantised some thousands of weights at a time straight into the file: memory holds one module
as it is stored and a few megabytes.

A model that danlu has quantised already keeps its numbers (type `as-is`): a whole number stays that number, a float16
scale that scale.

| danlu                                           | GGUF                                                              |
|-------------------------------------------------|-------------------------------------------------------------------|
| 8 bits, symmetric, scales of rows or groups     | Q8_0, the scale of a row or group in each block of 32, as float16 |
| 4 bits, symmetric, groups of 32, 64, 128        | Q4_0, the scale of the group in each block of 32                  |
| 4 bits with zero points: scale * (q - zero)     | Q4_1, whose offset is -scale * zero                               |
| floats                                          | F32, F16, BF16 as they are; vectors always F32                    |

What has been written is opened again: by danlu, which must find the same shape, tensors and tokenizer, and by llama.cpp
where llama-cpp-python is installed. A file that is refused is removed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from danlu.core.errors import UserError
from danlu.model.config import ModelConfig
from danlu.model.gguf.blocks import Bytes, dequantize
from danlu.model.gguf.integers import Integers, integers, kept_type, packed
from danlu.model.gguf.load import load_gguf, open_model
from danlu.model.gguf.mixture import FILE_TYPES, is_vector, tensor_type
from danlu.model.gguf.names import ROPE_FACTORS, gguf_parts, is_interleaved, neighbours
from danlu.model.gguf.pack import quantize
from danlu.model.gguf.reader import GGUFFile
from danlu.model.gguf.settings import rope_factors, settings, what_differs
from danlu.model.gguf.writer import NewTensor, write_gguf
from danlu.model.hub import Checkpoint, load_tokenizer
from danlu.model.transformer import Transformer, fused_rows
from danlu.tokenizer.gguf import tokenizer_from_gguf
from danlu.tokenizer.to_gguf import SAMPLES, Written, tokenizer_metadata

if TYPE_CHECKING:
    from danlu.tokenizer.tokenizer import Tokenizer

AS_IS = "as-is"
PIECE = 1 << 20  # weights at a time
_FLOATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def save_gguf(model: Path, directory: Path, kind: str, name: str) -> dict[str, Any]:
    """Write a model (a Hugging Face directory or a .gguf file) as one file in `directory`; facts about it.

    `kind` is `as-is` or a type of `mixture.FILE_TYPES`, `name` the model's in the file. Raises UserError, and leaves
    no file, for a family, a setting or a tokenizer that GGUF cannot express, for weights that do not fit the type, and
    for a file that its readers refuse.
    """
    source = _Source(model, kind)
    written = tokenizer_metadata(source.tokenizer, source.config.vocab_size) if source.tokenizer else None
    parts = source.parts(kind)
    main = kind if kind != AS_IS else _commonest(parts)
    metadata = settings(source.config) | _general(name, main) | _tokenizer(written, source.config)
    factors = rope_factors(source.config)
    tensors = [part.tensor for part in parts]
    if factors is not None:
        tensors.insert(0, NewTensor(ROPE_FACTORS, tuple(factors.shape), "F32"))
    target = directory / f"{name}-{main}.gguf"
    loss = Loss()
    try:
        first = [] if factors is None else [factors.numpy().view(np.uint8)]
        write_gguf(
            target, metadata, tensors, (piece for group in (first, source.pieces(parts, loss)) for piece in group)
        )
        check(target, source.config, source.tokenizer)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return _facts(target, tensors, loss, written, source.config)


def check(path: Path, config: ModelConfig, tokenizer: Tokenizer | None) -> None:
    """Open a file again as its readers do. UserError when it is not the model it was made from, or is refused."""
    with GGUFFile(path) as file:
        found = open_model(file)[0].config
        if (field_name := what_differs(config, found)) is not None:
            mine, its = getattr(config, field_name), getattr(found, field_name)
            raise UserError(
                f"GGUF cannot say {field_name} = {mine!r}: it comes back as {its!r}", "export to hf instead"
            )
        again = tokenizer_from_gguf(file.metadata, path.name)
    if tokenizer is not None:
        assert again is not None
        different = [text for text in SAMPLES if tokenizer.encode(text) != again.encode(text)]
        assert not different, f"the tokenizer of {path.name} reads {different[0]!r} otherwise"
    if importlib.util.find_spec("llama_cpp") is not None:
        _open_with_llama_cpp(path)


_LLAMA_CPP = """
import sys, llama_cpp
parameters = llama_cpp.llama_model_default_params()
parameters.n_gpu_layers = 0
model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), parameters)
sys.exit(0 if model else 1)
"""


def _open_with_llama_cpp(path: Path) -> None:
    """In a process of its own: what it cannot read may end it."""
    done = subprocess.run(
        [sys.executable, "-c", _LLAMA_CPP, str(path)], capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()] or [done.stderr.strip()]
        raise UserError(f"llama.cpp refuses the file: {lines[0][:300]}", "the file has been removed")


# ---- the model that is written ---------------------------------------------------------------------------------


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


class _Source:
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
        name, config, found = str(settings(self.config)["general.architecture"]), self.config, []
        for module, tensor, shape in _tensors(self.model):
            parts = gguf_parts(name, f"{module}.{tensor}")
            fused = fused_rows(config, module)
            rows = fused if len(parts) > 1 and fused is not None else (shape[0],)
            first = 0
            for part, count in zip(parts, rows, strict=True):
                cut = (count, *shape[1:])
                stored = kept_type(self.model.get_submodule(module)) if tensor == "weight" else None
                if kind != AS_IS:
                    chosen = tensor_type(part, cut, kind, tied=config.tie_embeddings, n_layers=config.n_layers)
                elif stored is not None and not is_vector(part, cut):
                    chosen = stored
                else:
                    own = self.model.get_parameter(f"{module}.{tensor}")
                    chosen = "F32" if is_vector(part, cut) else _FLOATS[own.dtype]
                kept = kind == AS_IS and chosen == stored != "F16"
                new = NewTensor(part, cut, chosen)
                found.append(Part(module, tensor, first, new, kept, is_interleaved(name, part)))
                first += count
        return found

    def pieces(self, parts: list[Part], loss: Loss) -> Iterator[Bytes]:
        """The bytes of all parts, some rows at a time."""
        for part in parts:
            with self.lent(part.module):
                yield from self._bytes(part, loss)

    def _bytes(self, part: Part, loss: Loss) -> Iterator[Bytes]:
        module = self.model.get_submodule(part.module)
        count, columns = part.tensor.shape[0], part.tensor.shape[-1] if len(part.tensor.shape) > 1 else 1
        order = torch.arange(part.first, part.first + count)
        if part.interleaved:
            order = neighbours(order, self.config.head_dim)
        numbers = integers(module) if part.kind == "weight" else None
        floats = None if numbers is not None else getattr(module, part.kind).detach()
        step, square, lost = max(1, PIECE // columns), 0.0, 0.0
        for rows in order.split(step) if columns > 1 else (order,):
            if numbers is not None and part.kept:
                yield packed(numbers.rows(rows), part.tensor.type)
                continue
            weights = numbers.rows(rows).floats() if numbers is not None else _take(floats, rows).float()
            raw = quantize(weights, part.tensor.type)
            yield raw
            if part.tensor.type != "F32":
                values = weights.numpy().reshape(-1)
                square += float(np.square(values, dtype=np.float64).sum())
                lost += float(np.square(dequantize(raw, part.tensor.type) - values, dtype=np.float64).sum())
            elif not bool(torch.isfinite(weights).all()):
                lost = float("nan")
        if not np.isfinite(lost):
            raise UserError(
                f"{part.tensor.name} has numbers that {part.tensor.type} cannot hold",
                "choose another --type, such as BF16",
            )
        if part.tensor.type != "F32":
            loss.add(part.tensor.name, square, lost)


def _take(tensor: Tensor | None, rows: Tensor) -> Tensor:
    """Rows of a tensor, a view where they are neighbours."""
    assert tensor is not None
    first, last = int(rows[0]), int(rows[-1])
    if last - first == len(rows) - 1 and bool((rows.diff() == 1).all()):
        return tensor[first : last + 1]
    return tensor[rows]


def _tensors(model: Transformer) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(module, "weight" or "bias", shape) of everything that is learned."""
    for name, module in model.named_modules():
        if (shape := Integers.shape(module)) is not None:
            yield name, "weight", shape
        for kind, tensor in module.named_parameters(recurse=False):
            if kind in ("weight", "bias") and not (shape is not None and kind == "weight"):
                yield name, kind, tuple(tensor.shape)


# ---- metadata and facts ----------------------------------------------------------------------------------------


def _general(name: str, main: str) -> dict[str, Any]:
    return {
        "general.type": "model",
        "general.name": name,
        "general.file_type": FILE_TYPES[main],
        "general.quantization_version": 2,
    }


def _tokenizer(written: Written | None, config: ModelConfig) -> dict[str, Any]:
    if written is not None:
        return written.metadata
    ids = {"bos": config.bos_id, "eos": config.eos_ids[0] if config.eos_ids else None, "padding": config.pad_id}
    named = {f"tokenizer.ggml.{role}_token_id": index for role, index in ids.items() if index is not None}
    return {"tokenizer.ggml.model": "none", **named}


def _commonest(parts: list[Part]) -> str:
    """The type that holds most weights."""
    weights: Counter[str] = Counter()
    for part in parts:
        weights[part.tensor.type] += int(np.prod(part.tensor.shape))
    return weights.most_common(1)[0][0]


def _facts(
    target: Path, tensors: list[NewTensor], loss: Loss, written: Written | None, config: ModelConfig
) -> dict[str, Any]:
    count = sum(int(np.prod(tensor.shape)) for tensor in tensors)
    notes = []
    if written is not None and not written.exact:
        notes.append(
            f"llama.cpp cuts text in other places than this tokenizer: {written.alike} of {len(SAMPLES)} sample texts "
            "get the same ids there; danlu reads the file exactly"
        )
    if config.family == "mistral" and config.sliding_window:
        notes.append(f"llama.cpp has no sliding attention here: texts beyond {config.sliding_window} tokens differ")
    return {
        "file": target.name,
        "bytes": target.stat().st_size,
        "bits_per_weight": 8 * sum(tensor.size for tensor in tensors) / count,
        "tensors": dict(Counter(tensor.type for tensor in tensors)),
        "mean_error": (loss.lost / loss.total) ** 0.5 if loss.total else 0.0,
        "max_error": max(loss.errors.values(), default=0.0),
        "notes": notes,
    }
