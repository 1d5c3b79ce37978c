"""The shape of a model in GGUF's keys, both ways.

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

Source: the GGUF specification.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from danlu.core.errors import UserError
from danlu.model.config import ModelConfig, RopeScaling
from danlu.model.gguf.names import ARCHITECTURES, ROPE_FACTORS, Architecture, architecture_of
from danlu.model.gguf.reader import GGUFFile
from danlu.model.rope import frequencies

if TYPE_CHECKING:
    import torch

# Keys of mathematics that danlu does not have: any value but 0 (or absent) is refused.
REFUSED = (
    "expert_count", "attention.q_lora_rank", "attention.scale", "attention.max_alibi_bias", "attn_logit_softcapping",
    "final_logit_softcapping", "logit_scale", "residual_scale", "embedding_scale",
)  # fmt: skip


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
        "family": "mistral" if file.architecture == "llama" and window else arch.families[0],
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


def architecture(file: GGUFFile) -> Architecture:
    """The row for a file; UserError that names the known ones when there is none."""
    name = file.architecture
    if name not in ARCHITECTURES:
        known = "danlu reads " + ", ".join(ARCHITECTURES)
        if not name:
            raise UserError(f"{file.path} does not say which architecture it is", known)
        raise UserError(f'{file.path} has the architecture "{name}", which danlu does not read', known)
    return ARCHITECTURES[name]


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
    if not 0 < factor < math.inf:
        raise UserError(f"{file.path} stretches its positions {factor} times", "convert the model again")
    if kind == "linear":
        return RopeScaling(type="linear", factor=factor)
    if kind == "yarn":
        original = keys.number("rope.scaling.original_context_length", 0) or keys.number("context_length")
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
        if type(value) is not int or value < 0:
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


# ---- the way back ------------------------------------------------------------------------------------------------


def settings(config: ModelConfig) -> dict[str, Any]:
    """The keys that say `config`, "general.architecture" first. UserError for what llama.cpp has no words for."""
    name = architecture_of(config.family)
    row = ARCHITECTURES[name]
    for bias in ("qkv_bias", "output_bias", "mlp_bias"):
        if getattr(config, bias) and bias not in row.biases:
            raise UserError(f"llama.cpp's {name} has no {bias}", "it would leave it out and answer wrongly")
    keys: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "block_count": config.n_layers,
        "context_length": config.max_position,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        row.epsilon: config.norm_eps,
    }
    if config.positions == "rope":
        keys |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
        keys |= {"rope.dimension_count": config.head_dim, "rope.freq_base": config.rope_theta}
        keys |= _scaling_keys(config)
    if any(config.window(layer) for layer in range(config.n_layers)):
        keys["attention.sliding_window"] = config.sliding_window
    return {"general.architecture": name} | {f"{name}.{key}": value for key, value in keys.items()}


def _scaling_keys(config: ModelConfig) -> dict[str, Any]:
    """Llama 3's settings are no keys but a tensor: `rope_factors`."""
    scaling = config.rope_scaling
    if scaling is None or scaling.type == "llama3":
        return {}
    if scaling.type == "dynamic":
        raise UserError(
            "llama.cpp has no rotary positions that stretch with the length of the text (rope type dynamic)",
            "set rope_scaling to linear, llama3 or yarn in config.json, or to null for the trained length",
        )
    keys: dict[str, Any] = {"type": scaling.type, "factor": scaling.factor}
    if scaling.type == "yarn":
        amplitude = frequencies(config)[1] / (0.1 * math.log(scaling.factor) + 1.0)
        keys["original_context_length"] = scaling.original_max_position or config.max_position
        keys |= {} if math.isclose(amplitude, 1.0) else {"attn_factor": amplitude}
    return {f"rope.scaling.{key}": value for key, value in keys.items()}


def rope_factors(config: ModelConfig) -> torch.Tensor | None:
    """By what each rotary frequency is divided, [hd / 2]: the tensor that says Llama 3's settings; else None."""
    if config.rope_scaling is None or config.rope_scaling.type != "llama3":
        return None
    plain, _ = frequencies(config.model_copy(update={"rope_scaling": None}))
    return plain / frequencies(config)[0]


def what_differs(one: ModelConfig, other: ModelConfig) -> str | None:
    """The first field in which two models would compute differently; ids of special tokens are no part of it."""
    for name in ModelConfig.model_fields:
        same = getattr(one, name) == getattr(other, name)
        if name in ("sliding_window", "sliding_layers"):
            same = all(one.window(layer) == other.window(layer) for layer in range(one.n_layers))
        elif name == "rope_scaling":
            same = one.positions == "learned" or _turns_alike(one, other)
        elif name == "rope_theta":
            same |= one.positions == "learned"
        elif name == "gelu_tanh":
            same |= one.mlp != "gelu"
        if not same and name not in ("family", "bos_id", "eos_ids", "pad_id"):
            return name
    return None


def _turns_alike(one: ModelConfig, other: ModelConfig) -> bool:
    (a, loud), (b, other_loud) = frequencies(one), frequencies(other)
    return bool((a - b).abs().le(1e-5 * a.abs()).all()) and math.isclose(loud, other_loud, rel_tol=1e-6)
