"""A model as a Hugging Face directory for other programs.

| type               | quantised matrices of the blocks          | embedding and head | all other floats |
|--------------------|-------------------------------------------|--------------------|------------------|
| as-is              | as they are                               | as they are        | as they are      |
| float              | written out, products multiplied out too  | bfloat16           | bfloat16         |
| compressed-tensors | as they are, in any mixture               | bfloat16           | bfloat16         |
| gptq               | repacked; 4 bits in groups, all alike     | float16            | float16          |
| awq                | repacked; 4 bits in groups, all alike     | float16            | float16          |

Other programs open quantised matrices in the blocks only, which is why embedding and head are written out. float16 is
what the kernels for the last two compute in, and what their scales are in. No number is rounded twice: the whole
numbers, scales and zero points of what stays quantised are the model's own, and the directory is read again to see it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from danlu.core.errors import UserError
from danlu.model.finite import require_finite
from danlu.model.hub import Checkpoint, load, save_model
from danlu.model.low_rank import LowRankLinear
from danlu.model.quantized import NF4, is_quantized, schemes_of
from danlu.model.quantized.modules import Quantized, float_twin
from danlu.model.transformer import Transformer

OUTER = ("embedding", "lm_head")


class Type(NamedTuple):
    """dtype of floats, None: their own. layout: of hub.save_model. blocks: they have to be quantised, and stay so."""

    dtype: torch.dtype | None
    layout: str | None = None
    blocks: bool = False


TYPES = {
    "as-is": Type(None),
    "float": Type(torch.bfloat16),
    "compressed-tensors": Type(torch.bfloat16, None, True),
    "gptq": Type(torch.float16, "gptq", True),
    "awq": Type(torch.float16, "awq", True),
}


def save_hf(path: Path, directory: Path, kind: str) -> dict[str, Any]:
    """Write a model (a directory or a .gguf file) into `directory` as a type of `TYPES`; facts about what was written.

    Raises UserError for a model that the type cannot hold.
    """
    model, tokenizer = load(path)
    require_finite(model, "", str(path))
    row = TYPES[kind]
    if row.blocks:
        _check(model, kind)
    if row.dtype is not None:
        _write_out(model, row.dtype, only=OUTER if row.blocks else None)
        _cast(model, row.dtype)
    save_model(model, directory, tokenizer, layout=row.layout)
    _compare(model, directory)
    return {"bytes": sum(file.stat().st_size for file in directory.glob("*.safetensors")), "notes": _notes(model, kind)}


def _notes(model: Transformer, kind: str) -> list[str]:
    """What a reader of the directory has to know."""
    schemes = schemes_of(model)
    if kind == "as-is" and schemes:
        return ["danlu opens these quantised weights; for transformers and vLLM: --type compressed-tensors, or float"]
    packed = any(scheme.bits < 8 and not scheme.symmetric for scheme in schemes.values())
    if kind == "compressed-tensors" and packed:
        return ["transformers opens 4 bits with zero points only with CompressedTensorsConfig(dequantize=True)"]
    return []


def _check(model: Transformer, kind: str) -> None:
    if not is_quantized(model):
        raise UserError(
            f"the model is not quantised, so there is nothing for {kind} to hold", "danlu compress it first"
        )
    if model.config.family == "gpt2":
        raise UserError(
            f"a gpt2 keeps its matrices turned over, and programs that read {kind} do not", "--type float, or gguf"
        )
    schemes = schemes_of(model)
    if NF4 in schemes.values():
        raise UserError(f"{kind} has no NF4", "--type float writes the numbers out")
    if not set(schemes) - set(OUTER):
        raise UserError("nothing in the blocks of this model is quantised", "--type float writes the rest out")


def _write_out(model: Transformer, dtype: torch.dtype, only: tuple[str, ...] | None) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, Quantized | LowRankLinear) and (only is None or name in only):
            model.set_submodule(name, float_twin(module, dtype))


def _cast(model: Transformer, dtype: torch.dtype) -> None:
    """All floats but scales in `dtype`, in place. Raises UserError for numbers beyond it."""
    for name, module in model.named_modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            if not parameter.is_floating_point() or (isinstance(module, Quantized) and key == "weight_scale"):
                continue
            cast = parameter.detach().to(dtype)
            if not bool(cast.isfinite().all()):
                raise UserError(f"{name}.{key} has numbers beyond {dtype}", "--type compressed-tensors has bfloat16")
            setattr(module, key, nn.Parameter(cast, requires_grad=False))


def _compare(model: Transformer, directory: Path) -> None:
    """What was written reads back as `model`, to the bit. Raises UserError where it does not."""
    written = Checkpoint(directory)
    for name, module in model.named_modules():
        mine = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        kept = {key: mine[key] for key in module.state_dict() if key in mine}
        if not kept:
            continue
        with written.lent(name):
            its = written.model.get_submodule(name).state_dict()
            wrong = [key for key, tensor in kept.items() if not torch.equal(tensor.to(its[key].dtype), its[key])]
        if wrong:
            raise UserError(f"{name}.{wrong[0]} comes back otherwise than it was written", "this is an error of danlu")
