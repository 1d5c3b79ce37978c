"""Families as tables: what the weights and the config keys of each are called on disk.

A family is a row of `FAMILIES`, and everything in it is data read in both directions:

    keys      config.json key      <-> ModelConfig field(s)
    fixed     ModelConfig fields that all members of the family share
    missing   values of keys that an old config.json leaves out (the family's own defaults)
    refused   keys that would change the mathematics in a way danlu does not implement, with the value it needs
    weights   module of danlu      <-> module(s) in the checkpoint

The weight table maps *modules*; what they hold (weight, bias, an int8 scale) keeps its own name. Where danlu has one
matrix and the checkpoint several (query, key, value), the rows are joined in the order of the table. GPT-2 stores its
matrices the other way round ([in, out], the "Conv1D" of its first release): those are turned over.

To add a family whose mathematics is covered by ModelConfig: add a row, and a case in tests/model/test_families.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from danlu.core.errors import UserError, suggest
from danlu.model.config import ModelConfig


@dataclass(frozen=True)
class Weights:
    """Where one module of danlu lives in a checkpoint. `{}` stands for the number of the layer."""

    names: tuple[str, ...]
    turned: bool = False  # the file holds weight as [in, out]


@dataclass(frozen=True)
class Family:
    name: str
    architecture: str  # the class that transformers, vLLM and llama.cpp's converter look for
    prefix: str  # of all names but the head's; checkpoints of the bare model leave it out
    keys: Mapping[str, tuple[str, ...]]
    fixed: Mapping[str, Any]
    missing: Mapping[str, Any]
    refused: Mapping[str, Any]
    weights: Mapping[str, Weights]
    ignored: tuple[str, ...] = ()  # endings of tensor names that hold nothing learned
    sliding: str = "none"  # none | all (Mistral) | layers (Qwen)
    written: Mapping[str, Any] = field(default_factory=dict)  # keys written as they are, for other readers


_LLAMA_KEYS: dict[str, tuple[str, ...]] = {
    "vocab_size": ("vocab_size",),
    "hidden_size": ("hidden_size",),
    "num_hidden_layers": ("n_layers",),
    "num_attention_heads": ("n_heads",),
    "num_key_value_heads": ("n_kv_heads",),
    "head_dim": ("head_dim",),
    "intermediate_size": ("intermediate_size",),
    "max_position_embeddings": ("max_position",),
    "rms_norm_eps": ("norm_eps",),
    "tie_word_embeddings": ("tie_embeddings",),
}

_LLAMA_WEIGHTS: dict[str, Weights] = {
    "embedding": Weights(("model.embed_tokens",)),
    "blocks.{}.attention_norm": Weights(("model.layers.{}.input_layernorm",)),
    "blocks.{}.attention.qkv": Weights(
        (
            "model.layers.{}.self_attn.q_proj",
            "model.layers.{}.self_attn.k_proj",
            "model.layers.{}.self_attn.v_proj",
        )
    ),
    "blocks.{}.attention.q_norm": Weights(("model.layers.{}.self_attn.q_norm",)),
    "blocks.{}.attention.k_norm": Weights(("model.layers.{}.self_attn.k_norm",)),
    "blocks.{}.attention.out": Weights(("model.layers.{}.self_attn.o_proj",)),
    "blocks.{}.mlp_norm": Weights(("model.layers.{}.post_attention_layernorm",)),
    "blocks.{}.mlp.gate_up": Weights(("model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj")),
    "blocks.{}.mlp.down": Weights(("model.layers.{}.mlp.down_proj",)),
    "norm": Weights(("model.norm",)),
    "lm_head": Weights(("lm_head",)),
}

_LLAMA_MISSING: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
}

_COMMON = {"norm": "rms", "mlp": "swiglu", "positions": "rope"}

LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    prefix="model.",
    keys={**_LLAMA_KEYS, "attention_bias": ("qkv_bias", "output_bias"), "mlp_bias": ("mlp_bias",)},
    fixed=_COMMON,
    missing={**_LLAMA_MISSING, "attention_bias": False, "mlp_bias": False},
    refused={"hidden_act": "silu"},
    weights=_LLAMA_WEIGHTS,
    ignored=("rotary_emb.inv_freq",),
)

MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    prefix="model.",
    keys=_LLAMA_KEYS,
    fixed=_COMMON,
    missing={**_LLAMA_MISSING, "max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    refused={"hidden_act": "silu"},
    weights=_LLAMA_WEIGHTS,
    ignored=("rotary_emb.inv_freq",),
    sliding="all",
)

QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    prefix="model.",
    keys=_LLAMA_KEYS,
    fixed={**_COMMON, "qkv_bias": True},
    missing={**_LLAMA_MISSING, "max_position_embeddings": 32768, "num_key_value_heads": 32},
    refused={"hidden_act": "silu"},
    weights=_LLAMA_WEIGHTS,
    ignored=("rotary_emb.inv_freq",),
    sliding="layers",
)

QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    prefix="model.",
    keys={**_LLAMA_KEYS, "attention_bias": ("qkv_bias", "output_bias")},
    fixed={**_COMMON, "qk_norm": True},
    missing={**QWEN2.missing, "head_dim": 128, "attention_bias": False},
    refused={"hidden_act": "silu"},
    weights=_LLAMA_WEIGHTS,
    ignored=("rotary_emb.inv_freq",),
    sliding="layers",
)

GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    prefix="transformer.",
    keys={
        "vocab_size": ("vocab_size",),
        "n_embd": ("hidden_size",),
        "n_layer": ("n_layers",),
        "n_head": ("n_heads",),
        "n_inner": ("intermediate_size",),
        "n_positions": ("max_position",),
        "layer_norm_epsilon": ("norm_eps",),
        "tie_word_embeddings": ("tie_embeddings",),
    },
    fixed={
        "norm": "layer",
        "mlp": "gelu",
        "positions": "learned",
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
    },
    missing={
        "n_positions": 1024,
        "n_inner": None,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "activation_function": "gelu_new",
    },
    refused={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    weights={
        "embedding": Weights(("transformer.wte",)),
        "position_embedding": Weights(("transformer.wpe",)),
        "blocks.{}.attention_norm": Weights(("transformer.h.{}.ln_1",)),
        "blocks.{}.attention.qkv": Weights(("transformer.h.{}.attn.c_attn",), turned=True),
        "blocks.{}.attention.out": Weights(("transformer.h.{}.attn.c_proj",), turned=True),
        "blocks.{}.mlp_norm": Weights(("transformer.h.{}.ln_2",)),
        "blocks.{}.mlp.up": Weights(("transformer.h.{}.mlp.c_fc",), turned=True),
        "blocks.{}.mlp.down": Weights(("transformer.h.{}.mlp.c_proj",), turned=True),
        "norm": Weights(("transformer.ln_f",)),
        "lm_head": Weights(("lm_head",)),
    },
    ignored=(".attn.bias", ".attn.masked_bias"),  # the causal mask, stored by early versions
)

FAMILIES: dict[str, Family] = {family.name: family for family in (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3)}

_GELU_TANH = {"gelu_new": True, "gelu_pytorch_tanh": True, "gelu_fast": True, "gelu": False}

# Hugging Face's rope keys <-> RopeScaling fields; `rope_type` was `type` before 2024.
_ROPE_KEYS = {
    "factor": "factor",
    "original_max_position_embeddings": "original_max_position",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "truncate": "truncate",
}
_ROPE_TYPES = ("linear", "dynamic", "llama3", "yarn")


def config_from_hf(raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """A parsed config.json -> ModelConfig. `where` names the file in errors.

    Raises UserError for an unknown model_type, a missing or impossible value, or mathematics danlu does not have.
    """
    name = raw.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(
            f"{where}: model_type {name!r} is not supported" if name else f"{where} has no model_type",
            "danlu reads " + ", ".join(sorted(FAMILIES)),
        )
    family = FAMILIES[name]
    _refuse(family, raw, where)
    fields: dict[str, Any] = {"family": name, **family.fixed}
    for key, targets in family.keys.items():
        value = raw[key] if key in raw else family.missing.get(key)
        if value is None and key not in ("n_inner", "num_key_value_heads", "head_dim"):
            raise UserError(f"{where} has no {key}", "the file is incomplete: copy the model again")
        fields.update(dict.fromkeys(targets, value))
    fields["n_kv_heads"] = fields.get("n_kv_heads") or fields["n_heads"]
    fields["head_dim"] = fields.get("head_dim") or 0
    if family.name == "gpt2":
        fields["intermediate_size"] = fields["intermediate_size"] or 4 * fields["hidden_size"]
        fields["gelu_tanh"] = _GELU_TANH[raw.get("activation_function", family.missing["activation_function"])]
    else:
        fields.update(_rope_from_hf(raw, family, where))
    fields.update(_sliding_from_hf(raw, family, fields["n_layers"], where))
    fields.update(_ids_from_hf(raw))
    return validated(fields, where)


def validated(fields: Mapping[str, Any], where: str) -> ModelConfig:
    """ModelConfig(**fields), with pydantic's complaint as one sentence."""
    try:
        return ModelConfig(**fields)
    except ValueError as error:  # pydantic's ValidationError
        raise UserError(f"{where}: {_first_problem(error)}", "correct the value") from None


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """ModelConfig -> the keys of config.json, without dtype.

    Rope is written in the form that transformers 4 and 5 both read (`rope_theta`, `rope_scaling`). Raises UserError
    when the family has no words for something in the config: a Llama with QK-norm would open without it elsewhere.
    """
    family = FAMILIES[config.family]
    raw: dict[str, Any] = {"model_type": family.name, "architectures": [family.architecture]}
    for key, targets in family.keys.items():
        raw[key] = getattr(config, targets[0])
    if family.name == "gpt2":
        raw["activation_function"] = "gelu_new" if config.gelu_tanh else "gelu"
        raw |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    else:
        raw |= {"hidden_act": "silu", "attention_dropout": 0.0, "rope_theta": config.rope_theta}
        raw["rope_scaling"] = _rope_to_hf(config)
    raw |= _sliding_to_hf(config, family)
    eos = list(config.eos_ids)
    raw["bos_token_id"], raw["pad_token_id"] = config.bos_id, config.pad_id
    raw["eos_token_id"] = None if not eos else eos[0] if len(eos) == 1 else eos
    back = config_from_hf(raw, "the model's config")
    lost = [name for name in ModelConfig.model_fields if getattr(back, name) != getattr(config, name)]
    lost = [name for name in lost if not _same(name, config, back)]
    if lost:
        mine, its = getattr(config, lost[0]), getattr(back, lost[0])
        raise UserError(f"a {family.name} model cannot have {lost[0]} = {mine!r}", f"in that family it is {its!r}")
    return raw


def _same(name: str, config: ModelConfig, back: ModelConfig) -> bool:
    """Fields that read back differently and mean the same."""
    if name in ("sliding_window", "sliding_layers"):
        return all(config.window(layer) == back.window(layer) for layer in range(config.n_layers))
    if name == "rope_scaling" and _rope_to_hf(config) == _rope_to_hf(back):
        return True  # the trained length left to its default
    if name in ("rope_theta", "rope_scaling"):
        return config.positions == "learned"
    return name == "gelu_tanh" and config.mlp != "gelu"


def _refuse(family: Family, raw: Mapping[str, Any], where: str) -> None:
    for key, needed in family.refused.items():
        if raw.get(key, needed) not in (needed, None):
            raise UserError(f"{where}: {key} = {raw[key]!r} is not supported", f"danlu implements {needed!r}")
    if family.name == "gpt2" and raw.get("activation_function", "gelu_new") not in _GELU_TANH:
        raise UserError(
            f"{where}: activation_function {raw['activation_function']!r} is not supported",
            "danlu implements " + ", ".join(_GELU_TANH),
        )


def _rope_from_hf(raw: Mapping[str, Any], family: Family, where: str) -> dict[str, Any]:
    """transformers 4 has `rope_theta` and `rope_scaling`, transformers 5 has both in `rope_parameters`."""
    given = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: rope_scaling must be a mapping, not {given!r}")
    given = {key: value for key, value in given.items() if value is not None}
    theta = given.pop("rope_theta", None) or raw.get("rope_theta") or family.missing["rope_theta"]
    old_name = given.pop("type", "default")
    kind = given.pop("rope_type", old_name)
    partial = given.pop("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise UserError(f"{where}: partial_rotary_factor {partial} is not supported", "danlu turns whole heads only")
    if kind == "default":
        return {"rope_theta": theta, "rope_scaling": None}
    if kind not in _ROPE_TYPES:
        raise UserError(
            f"{where}: rope type {kind!r} is not supported", "danlu reads default, " + ", ".join(_ROPE_TYPES)
        )
    scaling: dict[str, Any] = {"type": kind}
    for key, value in given.items():
        if key not in _ROPE_KEYS:
            raise UserError(f"{where}: unknown key {key!r} in rope_scaling", suggest(key, _ROPE_KEYS))
        scaling[_ROPE_KEYS[key]] = value
    if kind in ("llama3", "yarn"):
        scaling.setdefault("original_max_position", raw.get("original_max_position_embeddings"))
        if scaling["original_max_position"] is None:
            scaling["original_max_position"] = raw.get("max_position_embeddings")
    if "factor" not in scaling:
        raise UserError(f"{where}: rope_scaling has no factor", "add how many times the context is stretched")
    return {"rope_theta": theta, "rope_scaling": scaling}


def _rope_to_hf(config: ModelConfig) -> dict[str, Any] | None:
    if config.rope_scaling is None:
        return None
    fields = config.rope_scaling.model_dump(exclude_none=True)
    named = {key: fields[name] for key, name in _ROPE_KEYS.items() if name in fields}
    if fields["type"] in ("llama3", "yarn"):
        named.setdefault("original_max_position_embeddings", config.max_position)
    return {"rope_type": fields["type"], **named}


def _sliding_from_hf(raw: Mapping[str, Any], family: Family, n_layers: int, where: str) -> dict[str, Any]:
    if family.sliding == "none":
        return {}
    if family.sliding == "all":
        return {"sliding_window": raw.get("sliding_window", family.missing["sliding_window"])}
    if not raw.get("use_sliding_window", False):
        return {}
    window = raw.get("sliding_window", 4096)
    kinds = raw.get("layer_types")
    if kinds is None:
        return {"sliding_window": window, "sliding_layers": tuple(range(raw.get("max_window_layers", 28), n_layers))}
    unknown = set(kinds) - {"full_attention", "sliding_attention"}
    if unknown or len(kinds) != n_layers:
        raise UserError(
            f"{where}: layer_types must name {n_layers} layers", "each is full_attention or sliding_attention"
        )
    layers = tuple(index for index, kind in enumerate(kinds) if kind == "sliding_attention")
    return {"sliding_window": window, "sliding_layers": layers}


def _sliding_to_hf(config: ModelConfig, family: Family) -> dict[str, Any]:
    windows = [config.window(layer) for layer in range(config.n_layers)]
    if family.sliding == "all":
        return {"sliding_window": windows[0]}
    if family.sliding == "none" or not any(windows):
        return {"use_sliding_window": False, "sliding_window": None} if family.sliding == "layers" else {}
    first = next(index for index, window in enumerate(windows) if window)
    return {
        "use_sliding_window": True,
        "sliding_window": config.sliding_window,
        "max_window_layers": first,  # read by versions that do not know layer_types
        "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
    }


def _ids_from_hf(raw: Mapping[str, Any]) -> dict[str, Any]:
    eos = raw.get("eos_token_id")
    many = [] if eos is None else eos if isinstance(eos, list) else [eos]
    pad = raw.get("pad_token_id")
    return {"bos_id": raw.get("bos_token_id"), "eos_ids": tuple(many), "pad_id": None if pad == -1 else pad}


def _first_problem(error: ValueError) -> str:
    """The first complaint of pydantic as "field: what", without its preamble."""
    problems = getattr(error, "errors", None)
    if problems is None:
        return str(error)
    first = problems()[0]
    field_name = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{field_name}: {message}" if field_name else message
