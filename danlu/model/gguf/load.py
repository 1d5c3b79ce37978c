"""A GGUF file as a model.

metadata  --settings.py--->  ModelConfig
tensors   --load_gguf----->  Transformer, each tensor dequantised straight into its place
metadata  ---------------->  Tokenizer (danlu/tokenizer/gguf.py)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from danlu.core.errors import UserError
from danlu.model.gguf.names import ROPE_FACTORS, gguf_parts, halves, is_interleaved
from danlu.model.gguf.reader import GGUFFile
from danlu.model.gguf.settings import model_config

if TYPE_CHECKING:
    import torch

    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer


def load_gguf(path: str | Path, dtype: torch.dtype | None = None) -> tuple[Transformer, Tokenizer | None]:
    """The model and the tokenizer of a GGUF file, in evaluation mode; weights in `dtype` (float32 when None).

    The tokenizer is None when the file carries none. Raises UserError for a damaged file and for an architecture,
    tensor type, pre-tokenizer or setting that danlu does not know.
    """
    from danlu.tokenizer.gguf import tokenizer_from_gguf

    with GGUFFile(path) as file:
        model = read_model(file, dtype)
        return model, tokenizer_from_gguf(file.metadata, str(path))


def read_model(file: GGUFFile, dtype: torch.dtype | None = None) -> Transformer:
    """The model alone; the peak of memory is the model and one tensor. Raises as `load_gguf` does."""
    import torch

    model, plan = open_model(file)
    state: dict[str, torch.Tensor] = {}
    for name, empty in model.state_dict().items():
        tensor = torch.empty(empty.shape, dtype=dtype or torch.float32)
        targets = tensor.split([file.tensors[part].shape[0] for part in plan[name]])
        for part, target in zip(plan[name], targets, strict=True):
            file.read_into(part, target)
            if is_interleaved(file.architecture, part):
                target.copy_(halves(target, model.config.head_dim))
        state[name] = tensor
    model.load_state_dict(state, assign=True)
    return model.eval()


def open_model(file: GGUFFile) -> tuple[Transformer, dict[str, list[str]]]:
    """The model without numbers, and for each of its tensors those of the file whose rows make it up.

    Raises UserError unless all are there with their shapes and none is left over: a bias dropped in silence would be
    a model that answers wrongly.
    """
    import torch

    from danlu.model.transformer import Transformer

    file.require_supported_types()
    config = model_config(file)
    if config.n_layers > len(file.tensors):  # told before as many are made
        raise UserError(
            f"{file.path} promises {config.n_layers:,} layers and has {len(file.tensors):,} tensors",
            "the file is incomplete or of another model; convert it again",
        )
    with torch.device("meta"):
        model = Transformer(config)
    plan = {name: gguf_parts(file.architecture, name) for name in model.state_dict()}
    used = {part for parts in plan.values() for part in parts} | {ROPE_FACTORS}
    if config.tie_embeddings:
        used.add("output.weight")  # a copy of the embedding
    hint = "the file is incomplete or of another model; convert it again"
    if missing := sorted(used - set(file.tensors) - {ROPE_FACTORS, "output.weight"}):
        raise UserError(f"{file.path} has no tensor {missing[0]} ({len(missing)} are missing)", hint)
    if extra := sorted(set(file.tensors) - used):
        raise UserError(f"{file.path} has a tensor {extra[0]} that its architecture does not have", hint)
    for name, empty in model.state_dict().items():
        shapes = [file.tensors[part].shape for part in plan[name]]
        rows = sum(shape[0] for shape in shapes if shape)
        if rows != empty.shape[0] or any(shape[1:] != tuple(empty.shape[1:]) for shape in shapes):
            raise UserError(f"{file.path}: {' + '.join(plan[name])} should be {list(empty.shape)} in all", hint)
    for part, info in file.tensors.items():
        if is_interleaved(file.architecture, part) and info.shape[0] % config.head_dim:
            raise UserError(f"{file.path}: {part} has {info.shape[0]} rows for heads of {config.head_dim}", hint)
    return model, plan
