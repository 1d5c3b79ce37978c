"""Shapes to train from scratch.

All are Qwen3-shaped (rotary positions, RMSNorm, SwiGLU, grouped heads, QK-norm, tied embeddings): a file of theirs
opens in transformers, vLLM and llama.cpp as what it is. The vocabulary is the tokenizer's and not part of a preset.

Widths are multiples of 64, so that matrix products end on whole tiles; head_dim is 64, the smallest that fused
attention kernels like; the feed-forward is about 2.7 times the width, at which SwiGLU's three matrices hold as much
as the classic two of four times the width (arXiv:2002.05202, section 2). Depth against width is not tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.core.errors import UserError, suggest
from danlu.model.config import ModelConfig
from danlu.model.families import FAMILIES, config_to_hf, validated

_QWEN3 = {"family": "qwen3", "qk_norm": True, "tie_embeddings": True, "head_dim": 64}

PRESETS: dict[str, dict[str, Any]] = {
    # With a vocabulary of 4096: 1.2 million parameters, a few minutes on two CPU cores (docs/decisions/0007).
    "pico": _QWEN3
    | {
        "hidden_size": 128,
        "n_layers": 4,
        "n_heads": 2,
        "n_kv_heads": 1,
        "intermediate_size": 320,
        "max_position": 512,
    },
    # 3.8 million: half an hour.
    "nano": _QWEN3
    | {
        "hidden_size": 256,
        "n_layers": 4,
        "n_heads": 4,
        "n_kv_heads": 2,
        "intermediate_size": 640,
        "max_position": 512,
    },
    # About 10 million with a vocabulary of 8192.
    "micro": _QWEN3
    | {
        "hidden_size": 384,
        "n_layers": 5,
        "n_heads": 6,
        "n_kv_heads": 2,
        "intermediate_size": 1024,
        "max_position": 1024,
    },
    # About 30 million with a vocabulary of 16384.
    "small": _QWEN3
    | {
        "hidden_size": 512,
        "n_layers": 8,
        "n_heads": 8,
        "n_kv_heads": 4,
        "intermediate_size": 1408,
        "max_position": 1024,
    },
    # About 125 million with a vocabulary of 32768.
    "base": _QWEN3
    | {
        "hidden_size": 768,
        "n_layers": 15,
        "n_heads": 12,
        "n_kv_heads": 4,
        "intermediate_size": 2048,
        "max_position": 2048,
    },
}


def resolve_model(spec: str | Mapping[str, Any], vocab_size: int) -> ModelConfig:
    """What a recipe says under `model:` -> ModelConfig.

    A preset's name; or a mapping of ModelConfig fields, with `preset:` to start from one. `vocab_size` is the
    tokenizer's; a larger one in the mapping (padding the table to round numbers) is taken.

    >>> resolve_model({"preset": "nano", "n_layers": 6}, 4096).n_layers
    6
    """
    given = {"preset": spec} if isinstance(spec, str) else dict(spec)
    preset = given.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        raise UserError(f"no model preset {preset!r}", suggest(str(preset), PRESETS))
    for key in given:
        if key not in ModelConfig.model_fields:
            raise UserError(f"unknown model key {key!r}", suggest(str(key), [*ModelConfig.model_fields, "preset"]))
    fields = {"vocab_size": vocab_size} | (PRESETS[preset] if preset else {})
    if "n_heads" in given:
        fields.pop("n_kv_heads", None)  # the preset's grouping belongs to the preset's heads
    if "family" in given:
        fields = _without_switches(fields) | _switches(given["family"])
    fields |= given
    if fields["vocab_size"] < vocab_size:
        raise UserError(
            f"model vocab_size {fields['vocab_size']} is smaller than the tokenizer's {vocab_size}", "leave it out"
        )
    absent = [name for name, field in ModelConfig.model_fields.items() if field.is_required() and name not in fields]
    if absent:
        raise UserError(f"the model has no {absent[0]}", "give it, or start from a preset: " + ", ".join(PRESETS))
    config = validated(fields, "model")
    config_to_hf(config)  # a model that its family cannot describe could be trained and never saved
    return config


def _switches(family: Any) -> dict[str, Any]:
    """What a family fixes; the recipe names it, so that its members are what other programs expect."""
    if family not in FAMILIES:
        raise UserError(f"no model family {family!r}", suggest(str(family), FAMILIES))
    return dict(FAMILIES[family].fixed)


def _without_switches(fields: dict[str, Any]) -> dict[str, Any]:
    """A preset's sizes without the traits of its own family. Its head_dim stays: it belongs to its n_heads."""
    return {key: value for key, value in fields.items() if key not in ("family", "qk_norm")}
