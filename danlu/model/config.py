"""Every shape and switch of a decoder in one typed record.

A decoder of the GPT-2 / Llama / Mistral / Qwen kind is a stack of the same block:

    x = embedding[ids] (+ position[t] when positions are learned)         [B, T, D]
    x = x + attention(norm(x))      H query heads, Hkv key/value heads, hd wide each
    x = x + mlp(norm(x))            D -> F -> D
    logits = norm(x) @ head.T                                             [B, T, V]

The families differ in a dozen switches, and those are the fields below. `family` only says which names the
weights and the config keys have on disk (families.py); no layer ever asks for it.

The names are the field's own, not Hugging Face's: `n_layers` and not `num_hidden_layers`. The translation is a
table in families.py.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

# Bounds of what a file may ask for: above every model there is, and products of them fit in 64 bits.
LARGEST = {"hidden_size": 1 << 24, "n_heads": 1 << 16, "n_kv_heads": 1 << 16, "head_dim": 1 << 16}
LARGEST |= dict.fromkeys(("vocab_size", "n_layers", "intermediate_size", "max_position"), (1 << 31) - 1)


class RopeScaling(BaseModel):
    """How rotary frequencies are stretched beyond the trained length. Fields a type does not use stay None.

    The formulas are in rope.py. `factor` is the ratio of the new length to the trained one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["linear", "dynamic", "llama3", "yarn"]
    factor: float
    original_max_position: int | None = None  # llama3, yarn: the trained length; None = config.max_position
    low_freq_factor: float | None = None  # llama3
    high_freq_factor: float | None = None  # llama3
    beta_fast: float | None = None  # yarn, 32
    beta_slow: float | None = None  # yarn, 1
    attention_factor: float | None = None  # yarn: multiplies cos and sin
    mscale: float | None = None  # yarn, DeepSeek's variant of attention_factor
    mscale_all_dim: float | None = None  # yarn
    truncate: bool | None = None  # yarn, True: round the ramp's borders to whole dimensions

    @model_validator(mode="after")
    def _complete(self) -> RopeScaling:
        if not 0 < self.factor < math.inf:
            raise ValueError(f"factor must be a positive number, not {self.factor}")
        if self.original_max_position is not None and self.original_max_position < 1:
            raise ValueError(f"original_max_position must be at least 1, not {self.original_max_position}")
        if self.type == "llama3":
            low, high = self.low_freq_factor, self.high_freq_factor
            if low is None or high is None or not 0 < low < high:
                raise ValueError("type llama3 needs 0 < low_freq_factor < high_freq_factor")
        return self


class ModelConfig(BaseModel):
    """The shape of one decoder. `n_kv_heads` and `head_dim` default to n_heads and hidden_size / n_heads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["gpt2", "llama", "mistral", "qwen2", "qwen3"] = "qwen3"
    vocab_size: int
    hidden_size: int  # D
    n_layers: int
    n_heads: int  # H
    n_kv_heads: int = 0  # Hkv: H = multi-head, 1 = multi-query, between = grouped-query (arXiv:2305.13245)
    head_dim: int = 0  # hd
    intermediate_size: int  # F
    max_position: int = 1024

    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    mlp: Literal["swiglu", "gelu"] = "swiglu"  # swiglu: arXiv:2002.05202
    gelu_tanh: bool = True  # GPT-2's tanh approximation; False = the exact erf form
    positions: Literal["rope", "learned"] = "rope"
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    qk_norm: bool = False  # RMSNorm over hd of each query and key head, before rope (Qwen3)
    qkv_bias: bool = False
    output_bias: bool = False  # of the attention's output projection
    mlp_bias: bool = False
    tie_embeddings: bool = True
    sliding_window: int | None = None  # a token sees itself and the `sliding_window - 1` tokens before it
    sliding_layers: tuple[int, ...] | None = None  # which layers slide; None = all of them

    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_heads(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("n_heads"), int) and data["n_heads"] > 0:
            data = dict(data)
            data["n_kv_heads"] = data.get("n_kv_heads") or data["n_heads"]
            if not data.get("head_dim") and isinstance(data.get("hidden_size"), int):
                if data["hidden_size"] % data["n_heads"]:
                    raise ValueError(
                        f"hidden_size {data['hidden_size']} is not a multiple of n_heads {data['n_heads']}"
                    )
                data["head_dim"] = data["hidden_size"] // data["n_heads"]
        return data

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        for name, largest in LARGEST.items():
            if not 1 <= getattr(self, name) <= largest:
                raise ValueError(f"{name} must be from 1 to {largest:,}, not {getattr(self, name)}")
        for name in ("norm_eps", "rope_theta"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number, not {getattr(self, name)}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(f"rotary positions turn pairs of numbers: head_dim {self.head_dim} must be even")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(f"sliding_window must be at least 1, not {self.sliding_window}")
        return self

    def window(self, layer: int) -> int | None:
        """The sliding window of one layer, or None where the layer sees everything before it."""
        slides = self.sliding_layers is None or layer in self.sliding_layers
        return self.sliding_window if slides else None

    @property
    def qkv_sizes(self) -> tuple[int, int, int]:
        """Rows of the query, key and value parts of the fused projection."""
        return self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim, self.n_kv_heads * self.head_dim
