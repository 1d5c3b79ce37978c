"""A GGUF file as a model: what its keys and tensor names mean, as tables.

    metadata  --model_config-->  ModelConfig
    tensors   --load_gguf----->  Transformer, each tensor dequantised straight into its place
    metadata  ---------------->  Tokenizer (danlu/tokenizer/gguf.py)

Names are data: `ARCHITECTURES` maps the modules of danlu's decoder to GGUF names, as `families.py` maps them to
Hugging Face's. Where danlu has one matrix and the file several (query, key, value), their rows are joined in order.

One thing is more than names. The `llama` architecture of llama.cpp turns neighbours (x[2i], x[2i+1]) by the rotary
angle where danlu and Hugging Face turn halves (x[i], x[i + hd/2]), so llama.cpp's converter reorders the rows of the
query and key projections, head by head, and `_halves` undoes it: with hd = 4, the rows stored as 0 2 1 3 come back as
0 1 2 3. Files of Qwen2 and Qwen3 are not reordered.

| GGUF key ("ARCH." before each)           | ModelConfig                                                      |
|------------------------------------------|------------------------------------------------------------------|
| block_count, context_length              | n_layers, max_position                                           |
| embedding_length, feed_forward_length    | hidden_size, intermediate_size                                   |
| attention.head_count, head_count_kv      | n_heads, n_kv_heads                                              |
| attention.key_length                     | head_dim                                                         |
| attention.layer_norm(_rms)_epsilon       | norm_eps                                                         |
| attention.sliding_window                 | sliding_window                                                   |
| rope.freq_base, rope.scaling.*           | rope_theta, rope_scaling                                         |
| tensor rope_freqs.weight                 | rope_scaling of type llama3                                      |
| tensor output.weight absent              | tie_embeddings                                                   |

Source: the GGUF specification; llama.cpp's converter for the order of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.core.errors import UserError
from danlu.model.config import ModelConfig, RopeScaling
from danlu.model.gguf import GGUFFile

if TYPE_CHECKING:
    import torch

    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Architecture:
    """One row of `ARCHITECTURES`: what llama.cpp calls an architecture, in danlu's terms."""

    family: str
    weights: Mapping[str, tuple[str, ...]]  # module of danlu -> modules in the file; {} is the number of the layer
    fields: Mapping[str, Any] = field(default_factory=dict)  # of ModelConfig, implied by the architecture
    epsilon: str = "attention.layer_norm_rms_epsilon"
    interleaved: tuple[str, ...] = ()  # modules in the file whose rows are reordered for rotary pairs of neighbours


_LLAMA_WEIGHTS = {
    "embedding": ("token_embd",),
    "blocks.{}.attention_norm": ("blk.{}.attn_norm",),
    "blocks.{}.attention.qkv": ("blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v"),
    "blocks.{}.attention.q_norm": ("blk.{}.attn_q_norm",),
    "blocks.{}.attention.k_norm": ("blk.{}.attn_k_norm",),
    "blocks.{}.attention.out": ("blk.{}.attn_output",),
    "blocks.{}.mlp_norm": ("blk.{}.ffn_norm",),
    "blocks.{}.mlp.gate_up": ("blk.{}.ffn_gate", "blk.{}.ffn_up"),
    "blocks.{}.mlp.down": ("blk.{}.ffn_down",),
    "norm": ("output_norm",),
    "lm_head": ("output",),
}

_GPT2_WEIGHTS = {
    "embedding": ("token_embd",),
    "position_embedding": ("position_embd",),
    "blocks.{}.attention_norm": ("blk.{}.attn_norm",),
    "blocks.{}.attention.qkv": ("blk.{}.attn_qkv",),
    "blocks.{}.attention.out": ("blk.{}.attn_output",),
    "blocks.{}.mlp_norm": ("blk.{}.ffn_norm",),
    "blocks.{}.mlp.up": ("blk.{}.ffn_up",),
    "blocks.{}.mlp.down": ("blk.{}.ffn_down",),
    "norm": ("output_norm",),
    "lm_head": ("output",),
}

_GPT2_FIELDS = {
    "norm": "layer",
    "mlp": "gelu",
    "positions": "learned",
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
}

ARCHITECTURES: dict[str, Architecture] = {
    # also Mistral and SmolLM2, which llama.cpp counts as llama
    "llama": Architecture("llama", _LLAMA_WEIGHTS, interleaved=("blk.{}.attn_q", "blk.{}.attn_k")),
    "qwen2": Architecture("qwen2", _LLAMA_WEIGHTS),
    "qwen3": Architecture("qwen3", _LLAMA_WEIGHTS, fields={"qk_norm": True}),
    "gpt2": Architecture("gpt2", _GPT2_WEIGHTS, fields=_GPT2_FIELDS, epsilon="attention.layer_norm_epsilon"),
}

# Keys of mathematics that danlu does not have: any value but 0 (or absent) is refused.
REFUSED = (
    "expert_count", "attention.q_lora_rank", "attention.scale", "attention.max_alibi_bias", "attn_logit_softcapping",
    "final_logit_softcapping", "logit_scale", "residual_scale", "embedding_scale",
)  # fmt: skip
ROPE_FACTORS = "rope_freqs.weight"  # no weights, but a setting: see `_llama3_scaling`


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

    from danlu.model.transformer import Transformer

    config = model_config(file)
    file.require_supported_types()
    with torch.device("meta"):
        model = Transformer(config)
    plan = _plan(file, config, model)
    state: dict[str, torch.Tensor] = {}
    for name, empty in model.state_dict().items():
        tensor = torch.empty(empty.shape, dtype=dtype or torch.float32)
        targets = tensor.split([file.tensors[part].shape[0] for part in plan[name]])
        for part, target in zip(plan[name], targets, strict=True):
            file.read_into(part, target)
            if _is_interleaved(file, part):
                target.copy_(_halves(target, config.head_dim))
        state[name] = tensor
    model.load_state_dict(state, assign=True)
    return model.eval()


def architecture(file: GGUFFile) -> Architecture:
    """The row for a file; UserError that names the known ones when there is none."""
    name = file.architecture
    if name not in ARCHITECTURES:
        known = "danlu reads " + ", ".join(ARCHITECTURES)
        if not name:
            raise UserError(f"{file.path} does not say which architecture it is", known)
        raise UserError(f'{file.path} has the architecture "{name}", which danlu does not read', known)
    return ARCHITECTURES[name]


def _plan(file: GGUFFile, config: ModelConfig, model: Transformer) -> dict[str, list[str]]:
    """danlu's tensor name -> the tensors of the file whose rows make it up.

    Raises UserError unless all are there with their shapes and none is left over: a bias dropped in silence would be
    a model that answers wrongly.
    """
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
        if _is_interleaved(file, part) and info.shape[0] % config.head_dim:
            raise UserError(f"{file.path}: {part} has {info.shape[0]} rows for heads of {config.head_dim}", hint)
    return plan


def gguf_parts(name: str, tensor: str) -> list[str]:
    """The GGUF names whose rows make up danlu's `tensor`, in the architecture `name`.

    >>> gguf_parts("qwen2", "blocks.3.mlp.gate_up.weight")
    ['blk.3.ffn_gate.weight', 'blk.3.ffn_up.weight']
    """
    module, _, kind = tensor.rpartition(".")
    first, _, rest = module.partition(".")
    if first != "blocks":
        return [f"{part}.{kind}" for part in ARCHITECTURES[name].weights[module]]
    layer, _, inner = rest.partition(".")
    return [f"{part.format(layer)}.{kind}" for part in ARCHITECTURES[name].weights[f"blocks.{{}}.{inner}"]]


def _is_interleaved(file: GGUFFile, name: str) -> bool:
    first, _, rest = name.partition(".")
    number, _, inner = rest.partition(".")
    module = f"{first}.{{}}.{inner.rpartition('.')[0]}"
    return number.isdecimal() and module in architecture(file).interleaved


def _halves(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows `[H * hd, ...]` from pairs of neighbours to pairs of halves: row 2 i + j of a head goes to j * hd/2 + i."""
    heads = rows.unflatten(0, (-1, head_dim // 2, 2))  # [H, hd/2, 2, ...]
    return heads.transpose(1, 2).reshape(rows.shape)


# ---- the shape -------------------------------------------------------------------------------------------------


def model_config(file: GGUFFile) -> ModelConfig:
    """The shape of the model in a file. Raises UserError for a missing key or for something danlu has no part for."""
    arch = architecture(file)
    keys = _Keys(file)
    for key in REFUSED:
        if keys.get(key, 0):
            raise UserError(
                f"{file.path} uses {file.architecture}.{key}, which danlu does not have", "take another model"
            )
    hidden, heads = keys.number("embedding_length"), keys.number("attention.head_count")
    head_dim = keys.number("attention.key_length", hidden // max(heads, 1))
    if keys.number("rope.dimension_count", head_dim) != head_dim or (
        keys.number("attention.value_length", head_dim) != head_dim
    ):
        raise UserError(
            f"{file.path} turns or sums only part of each head, which danlu does not do", "take another model"
        )
    if "token_embd.weight" not in file.tensors:
        raise UserError(
            f"{file.path} has no tensor token_embd.weight", "it may be an adapter or one part of a split file"
        )
    window = keys.number("attention.sliding_window", 0)
    stop_keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    stops = [file.metadata.get(f"tokenizer.ggml.{key}") for key in stop_keys]
    values = {
        # llama.cpp does not tell Mistral from Llama; only Mistral's config.json can say that attention slides
        "family": "mistral" if arch.family == "llama" and window else arch.family,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "n_layers": keys.number("block_count"),
        "n_heads": heads,
        "n_kv_heads": keys.number("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": keys.number("feed_forward_length"),
        "max_position": keys.number("context_length"),
        "norm_eps": keys.decimal(arch.epsilon, 1e-5),
        "rope_theta": keys.decimal("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(file, keys, head_dim),
        "sliding_window": window or None,
        "qkv_bias": "blk.0.attn_q.bias" in file.tensors,
        "output_bias": "blk.0.attn_output.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_down.bias" in file.tensors,
        "tie_embeddings": _tied(file),
        "bos_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_ids": tuple(dict.fromkeys(i for i in stops if isinstance(i, int))),
        "pad_id": file.metadata.get("tokenizer.ggml.padding_token_id"),
        **arch.fields,
    }
    try:
        return ModelConfig(**values)
    except ValueError as error:
        reason = str(error).splitlines()[-2].strip() if "\n" in str(error) else str(error)
        raise UserError(f"{file.path} describes no possible model: {reason}", "convert the model again") from None


def _tied(file: GGUFFile) -> bool:
    """Whether input and output embedding are one matrix: no `output.weight`, or a copy of the same bytes."""
    output, embedding = file.tensors.get("output.weight"), file.tensors.get("token_embd.weight")
    if output is None or embedding is None:
        return True
    return output.type == embedding.type and file.same_bytes(output, embedding)


def _rope_scaling(file: GGUFFile, keys: _Keys, head_dim: int) -> RopeScaling | None:
    if ROPE_FACTORS in file.tensors:
        return _llama3_scaling(file, keys, head_dim)
    kind = keys.get("rope.scaling.type", "none" if keys.get("rope.scale_linear") is None else "linear")
    factor = keys.decimal("rope.scaling.factor", keys.decimal("rope.scale_linear", 1.0))
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return RopeScaling(type="linear", factor=factor)
    if kind == "yarn":
        original = keys.number("rope.scaling.original_context_length", keys.number("context_length"))
        # What the file calls attn_factor multiplies YaRN's own 0.1 ln(factor) + 1.
        extra = keys.decimal("rope.scaling.attn_factor", 1.0)
        amplitude = None if extra == 1.0 else extra * (0.1 * math.log(factor) + 1.0)
        return RopeScaling(type="yarn", factor=factor, original_max_position=original, attention_factor=amplitude)
    raise UserError(f'{file.path} stretches its positions by "{kind}", which danlu does not know', "take another model")


def _llama3_scaling(file: GGUFFile, keys: _Keys, head_dim: int) -> RopeScaling:
    """The settings that gave the stored factors.

    The file holds the outcome (by what each frequency is divided), Hugging Face the settings. All published models
    use low 1 and high 4 over 8192 positions and differ in `factor`, which is the largest of the numbers; whether
    that explains all the others is checked.
    """
    stored = file.tensor(ROPE_FACTORS).double().flatten().tolist()
    factor, low, high, trained = max(stored), 1.0, 4.0, 8192
    theta = keys.decimal("rope.freq_base", 10000.0)
    for index, value in enumerate(stored):
        turns = trained * theta ** (-2 * index / head_dim) / (2 * math.pi)
        keep = min(1.0, max(0.0, (turns - low) / (high - low)))
        if len(stored) * 2 != head_dim or abs(1 / (keep + (1 - keep) / factor) - value) > 1e-3 * value:
            raise UserError(
                f"{file.path} has rotary factors that are not Llama 3's",
                "danlu knows those of Llama 3.1 and later; take another model",
            )
    return RopeScaling(
        type="llama3", factor=factor, original_max_position=trained, low_freq_factor=low, high_freq_factor=high
    )


class _Keys:
    """The metadata of one architecture: `ARCH.name`, typed."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file

    def get(self, name: str, default: Any = None) -> Any:
        return self.file.metadata.get(f"{self.file.architecture}.{name}", default)

    def number(self, name: str, default: int | None = None) -> int:
        value = self.get(name, default)
        if isinstance(value, list) and value and all(each == value[0] for each in value):
            value = value[0]  # per layer, and all layers alike
        if not isinstance(value, int) or value < 0:
            key = f"{self.file.architecture}.{name}"
            problem = "has no key" if value is None else f"has {value!r} as"
            raise UserError(f"{self.file.path} {problem} {key}", "danlu needs one whole number there; convert it again")
        return value

    def decimal(self, name: str, default: float) -> float:
        value = self.get(name, default)
        if not isinstance(value, (int, float)):
            raise UserError(f"{self.file.path} has {value!r} as {self.file.architecture}.{name}", "expected a number")
        # Stored as float32: 1e-05 comes back as 9.999999747378752e-06. The shortest decimal is what was meant.
        return float(str(np.float32(value)))
