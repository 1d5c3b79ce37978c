"""A model as a GGUF file: `load.py` backwards.

    danlu export MODEL DIRECTORY --to gguf --type Q4_K

A model that danlu has quantised already keeps its numbers (type `as-is`, see kept.py); of another, `as-is` keeps the
floats. Otherwise mixture.py says which tensor gets which type, and fit.py how numbers are rounded.

What has been written is opened again: by danlu, which must find the same shape, tensors and tokenizer, and by llama.cpp
where llama-cpp-python is installed. A file that is refused is removed.
"""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.core.errors import UserError
from danlu.model.config import ModelConfig
from danlu.model.gguf.cut import AS_IS, Loss, Source
from danlu.model.gguf.load import open_model
from danlu.model.gguf.mixture import FILE_TYPES
from danlu.model.gguf.names import ROPE_FACTORS
from danlu.model.gguf.reader import GGUFFile
from danlu.model.gguf.settings import rope_factors, settings, what_differs
from danlu.model.gguf.writer import NewTensor, write_gguf
from danlu.tokenizer.gguf import tokenizer_from_gguf
from danlu.tokenizer.to_gguf import SAMPLES, Written, tokenizer_metadata

if TYPE_CHECKING:
    from danlu.tokenizer.tokenizer import Tokenizer


def save_gguf(model: Path, directory: Path, kind: str, name: str) -> dict[str, Any]:
    """Write a model (a Hugging Face directory or a .gguf file) as one file in `directory`; facts about it.

    `kind` is `as-is` or a type of `mixture.FILE_TYPES`, `name` the model's in the file. Raises UserError, and leaves
    no file, for a family, a setting or a tokenizer that GGUF cannot express, for weights that do not fit the type, and
    for a file that its readers refuse.
    """
    source = Source(model, kind)
    written = tokenizer_metadata(source.tokenizer, source.config.vocab_size) if source.tokenizer else None
    parts = source.parts(kind)
    tensors = [part.tensor for part in parts]
    main = kind if kind != AS_IS else _commonest(tensors)
    metadata = settings(source.config) | _general(name, main) | _tokenizer(written, source.config)
    factors = rope_factors(source.config)
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


def _commonest(tensors: list[NewTensor]) -> str:
    """The type that holds most weights."""
    weights: Counter[str] = Counter()
    for tensor in tensors:
        weights[tensor.type] += math.prod(tensor.shape)
    return weights.most_common(1)[0][0]


def _facts(
    target: Path, tensors: list[NewTensor], loss: Loss, written: Written | None, config: ModelConfig
) -> dict[str, Any]:
    count = sum(math.prod(tensor.shape) for tensor in tensors)
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
