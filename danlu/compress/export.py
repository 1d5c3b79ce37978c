"""A model for other programs.

    danlu export MODEL DIRECTORY --to FORMAT [--type TYPE]

A format is a row of `TARGETS`: who reads it, the types of numbers it can hold, and a function that writes it. What a
function has written is opened again before it counts: a file that its reader refuses is removed, and the export fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.artifact import MANIFEST, read_json
from danlu.core.errors import UserError


@dataclass(frozen=True)
class Target:
    """`write(model path, empty directory, type)` returns facts for the report; raises UserError where it cannot."""

    readers: str
    types: tuple[str, ...]  # the first is the default
    write: Callable[[Path, Path, str], dict[str, Any]]


def _write_hf(model: Path, directory: Path, kind: str) -> dict[str, Any]:
    from danlu.model.quantized.save import save_hf

    return save_hf(model, directory, kind)


def _write_gguf(model: Path, directory: Path, kind: str) -> dict[str, Any]:
    from danlu.model.gguf.save import save_gguf

    return save_gguf(model, directory, kind, _name(model))


def _name(model: Path) -> str:
    """What the model was called when it was made, else how its path is called."""
    file = model / MANIFEST
    name = read_json(file, "make the model again").get("name") if file.is_file() else ""
    return str(name or model.stem)


def _write_onnx(model: Path, directory: Path, kind: str) -> dict[str, Any]:
    from danlu.model.onnx.write import write_onnx

    return write_onnx(model, directory, kind)


TARGETS: Mapping[str, Target] = {
    "hf": Target("transformers, vLLM", ("as-is", "float", "compressed-tensors", "gptq", "awq"), _write_hf),
    "gguf": Target(
        "llama.cpp, Ollama", ("as-is", "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"), _write_gguf
    ),
    "onnx": Target(
        "onnxruntime, onnxruntime-genai, TensorRT", ("as-is", "float32", "float16", "int8", "int4"), _write_onnx
    ),
}


def export_model(model: Path, directory: Path, target: str, kind: str | None = None) -> dict[str, Any]:
    """Write `model` into the empty `directory`. Raises UserError that lists what there is for an unknown name."""
    row = TARGETS.get(target)
    if row is None:
        raise UserError(f'there is no format "{target}" for models', "available: " + ", ".join(TARGETS))
    kind = row.types[0] if kind is None else kind
    if kind not in row.types:
        raise UserError(f'"{target}" has no type "{kind}"', "available: " + ", ".join(row.types))
    return {"type": kind, **row.write(model, directory, kind)}
