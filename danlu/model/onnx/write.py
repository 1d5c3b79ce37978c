"""`write_onnx`: a directory with a model as ONNX, checked before it counts.

    model.onnx (model.onnx.data)                    the graph, and its tensors where they pass 2 GB
    config.json, generation_config.json             as beside safetensors
    tokenizer.json, tokenizer_config.json
    genai_config.json                               for onnxruntime-genai

A float model is written from its files, one module in memory at a time. Only rounding to int8 or int4 loads it whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from danlu.core.artifact import write_json
from danlu.core.errors import StageFailed, UserError, need

if TYPE_CHECKING:
    from danlu.model.onnx.decoder import Lend
    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer

FLOATS = {"float32": 4, "float16": 2}  # bytes
BITS = {"int8": 8, "int4": 4}
INLINE_LIMIT = 2_000_000_000  # bytes of tensors; a protocol buffer ends at 2^31, and the nodes are in it too
OPSET, OPSET_BLOCKED = 15, 21  # the mobile packages' newest; the first with int4 and with scales for blocks


def write_onnx(path: Path, directory: Path, kind: str = "as-is", inline_limit: int = INLINE_LIMIT) -> dict[str, Any]:
    """The model at `path` as model.onnx in `directory`; returns facts about the file.

    Raises UserError without the package `onnx`, for a model that is quantised already where `kind` asks for other
    numbers, and for numbers that a type cannot hold; StageFailed when a reader refuses what was written. The graph is
    removed then.
    """
    need("onnx", "onnx")
    from danlu.model.finite import require_finite
    from danlu.model.hub import save_settings
    from danlu.model.onnx.decoder import Decoder
    from danlu.model.onnx.genai import genai_config
    from danlu.model.onnx.graph import Graph

    model, tokenizer, lend, kind = _opened(path, kind)

    @contextmanager
    def checked(name: str) -> Iterator[None]:
        with lend(name):
            hint = "if it is whole, its numbers are too large for this --type" if kind in BITS else ""
            require_finite(model.get_submodule(name), name, str(path), hint)
            yield

    file, data = directory / "model.onnx", directory / "model.onnx.data"
    try:
        graph = Graph(_opset(model, kind), data if _size(model, kind) > inline_limit else None)
        Decoder(graph, model, checked, half=kind == "float16", keep=kind not in FLOATS).build()
        graph.save(file)
        readers = _check(file, model)
    except BaseException:
        file.unlink(missing_ok=True)
        data.unlink(missing_ok=True)
        raise
    settings = genai_config(model.config, save_settings(model.config, directory, tokenizer))
    if settings is not None:
        write_json(directory / "genai_config.json", settings)
    written = sum(one.stat().st_size for one in (file, data) if one.exists())
    notes = []
    words = directory / "tokenizer.json"
    if settings is not None and words.is_file() and r"\p{Han}" in words.read_text(encoding="utf-8"):
        notes.append(
            "onnxruntime-genai runs the model but cannot open its tokenizer, whose pattern knows scripts: encode with "
            "the package tokenizers"
        )
    return {"numbers": kind, "bytes": written, "opset": graph.opset, "checked_by": readers, "notes": notes}


def _opened(path: Path, kind: str) -> tuple[Transformer, Tokenizer | None, Lend, str]:
    """The model, readable module by module, float tensors as float32; and what "as-is" means for it."""
    from danlu.model.hub import Checkpoint, load, load_tokenizer
    from danlu.model.quantized import is_quantized, quantize_

    if path.is_file():
        model, tokenizer = load(path)
        lend: Lend = lambda name: nullcontext()  # noqa: E731 - it is whole already
    else:
        checkpoint = Checkpoint(path)
        model, tokenizer, lend = checkpoint.model, load_tokenizer(path), checkpoint.lent
    if is_quantized(model) and kind in BITS:
        raise UserError(f"{path} is quantised already", "leave --type out: its own numbers are kept")
    if kind == "as-is":
        kind = "own" if is_quantized(model) else "float16" if model.norm.weight.dtype == torch.float16 else "float32"
    if kind in BITS:
        model, lend = (model if path.is_file() else checkpoint.load()), lambda name: nullcontext()
        quantize_(model, BITS[kind])
    return model.to(torch.float32), tokenizer, lend, kind


def _size(model: Transformer, kind: str) -> int:
    """Bytes of the tensors as they will be written, or a little less."""
    from danlu.model.quantized import Quantized, matrices

    if kind not in FLOATS:
        return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    found: list[Any] = list(matrices(model).values())
    return FLOATS[kind] * sum(m.rows * m.columns if isinstance(m, Quantized) else m.weight.numel() for m in found)


def _opset(model: Transformer, kind: str) -> int:
    from danlu.model.quantized import schemes_of

    blocked = any(scheme.bits < 8 or scheme.group is not None for scheme in schemes_of(model).values())
    return OPSET_BLOCKED if blocked and kind not in FLOATS else OPSET


def _check(file: Path, model: Transformer) -> list[str]:
    """Open the file with onnx's checker and, where it is installed, onnxruntime, which must make sense of one token."""
    import onnx

    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StageFailed(f"onnx refuses the graph ({_first_line(error)})", "this is a mistake of danlu") from None
    if find_spec("onnxruntime") is None:
        return ["onnx"]
    try:
        logits = _one_token(file, model)
    except Exception as error:  # its errors have no common class
        raise StageFailed(
            f"onnxruntime refuses the graph ({_first_line(error)})", "this is a mistake of danlu"
        ) from None
    if logits.shape != (1, 1, model.config.vocab_size) or not torch.isfinite(torch.from_numpy(logits)).all():
        raise StageFailed(
            "onnxruntime computes no finite logits from the graph",
            "numbers overflow in this type: choose another --type",
        )
    return ["onnx", "onnxruntime"]


def _one_token(file: Path, model: Transformer) -> Any:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    feed: dict[str, Any] = {
        name: np.full((1, 1), value) for name, value in (("input_ids", 0), ("attention_mask", 1), ("position_ids", 0))
    }
    for one in session.get_inputs():
        if one.name.startswith("past_key_values."):
            dtype = np.float16 if one.type == "tensor(float16)" else np.float32
            feed[one.name] = np.zeros((1, model.config.n_kv_heads, 0, model.config.head_dim), dtype)
    return session.run(["logits"], feed)[0]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
