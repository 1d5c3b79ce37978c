"""Small models that every test of this room builds on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from danlu.model.config import ModelConfig
from danlu.model.transformer import Transformer


@pytest.fixture
def make_model() -> Callable[..., Transformer]:
    """A Qwen3-shaped model of a few thousand numbers, with changes; same arguments, same weights."""

    def make(seed: int = 0, **changes: Any) -> Transformer:
        shape: dict[str, Any] = {
            "vocab_size": 61, "hidden_size": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8,
            "intermediate_size": 48, "max_position": 64, "qk_norm": True,
        }  # fmt: skip
        torch.manual_seed(seed)
        return Transformer(ModelConfig(**{**shape, **changes}))

    return make
