"""Each architecture: a random model, written into a GGUF file by llama.cpp's rules, loads with the same logits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danlu.core.errors import UserError
from danlu.model.config import ModelConfig, RopeScaling
from danlu.model.gguf.load import load_gguf
from danlu.model.transformer import Transformer
from tests.model.gguf.files import write_gguf

SHAPE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8,
    "intermediate_size": 48, "max_position": 64, "norm_eps": 1e-5,
}  # fmt: skip
LLAMA3 = RopeScaling(type="llama3", factor=8.0, original_max_position=8192, low_freq_factor=1.0, high_freq_factor=4.0)
CONFIGS = {
    "llama": ModelConfig(family="llama", rope_theta=500000.0, **SHAPE),
    "llama, untied": ModelConfig(family="llama", tie_embeddings=False, **SHAPE),
    "llama 3.1": ModelConfig(family="llama", rope_theta=500000.0, rope_scaling=LLAMA3, **SHAPE),
    "llama, linear": ModelConfig(family="llama", rope_scaling=RopeScaling(type="linear", factor=2.0), **SHAPE),
    "mistral": ModelConfig(family="mistral", sliding_window=5, **SHAPE),
    "qwen2": ModelConfig(family="qwen2", qkv_bias=True, rope_theta=1e6, **SHAPE),
    "qwen2, yarn": ModelConfig(
        family="qwen2", qkv_bias=True,
        rope_scaling=RopeScaling(type="yarn", factor=4.0, original_max_position=16), **SHAPE,
    ),
    "qwen3": ModelConfig(family="qwen3", qk_norm=True, rope_theta=1e6, **{**SHAPE, "head_dim": 16}),
    "gpt2": ModelConfig(
        family="gpt2", norm="layer", mlp="gelu", positions="learned", qkv_bias=True, output_bias=True, mlp_bias=True,
        **{**SHAPE, "n_kv_heads": 4},
    ),
}  # fmt: skip


def interleave(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """What llama.cpp's converter does to query and key rows of the llama architecture."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def as_gguf(model: Transformer) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model in GGUF's words, written down here a second time."""
    c = model.config
    arch = "llama" if c.family == "mistral" else c.family
    meta: dict[str, Any] = {
        "general.architecture": arch,
        f"{arch}.block_count": c.n_layers,
        f"{arch}.context_length": c.max_position,
        f"{arch}.embedding_length": c.hidden_size,
        f"{arch}.feed_forward_length": c.intermediate_size,
        f"{arch}.attention.head_count": c.n_heads,
    }
    meta[f"{arch}.attention.layer_norm{'' if c.norm == 'layer' else '_rms'}_epsilon"] = c.norm_eps
    if c.positions == "rope":
        meta |= {
            f"{arch}.attention.head_count_kv": c.n_kv_heads,
            f"{arch}.attention.key_length": c.head_dim,
            f"{arch}.rope.dimension_count": c.head_dim,
            f"{arch}.rope.freq_base": c.rope_theta,
        }
    if c.sliding_window:
        meta[f"{arch}.attention.sliding_window"] = c.sliding_window
    tensors: dict[str, torch.Tensor] = {}
    if c.rope_scaling and c.rope_scaling.type == "llama3":
        tensors["rope_freqs.weight"] = llama3_factors(c)
    elif c.rope_scaling:
        meta |= {f"{arch}.rope.scaling.type": c.rope_scaling.type, f"{arch}.rope.scaling.factor": c.rope_scaling.factor}
        if c.rope_scaling.original_max_position:
            meta[f"{arch}.rope.scaling.original_context_length"] = c.rope_scaling.original_max_position
    top = {"embedding": "token_embd", "position_embedding": "position_embd", "norm": "output_norm", "lm_head": "output"}
    inner = {
        "attention_norm": "attn_norm", "attention.out": "attn_output", "attention.q_norm": "attn_q_norm",
        "attention.k_norm": "attn_k_norm", "mlp_norm": "ffn_norm", "mlp.up": "ffn_up", "mlp.down": "ffn_down",
    }  # fmt: skip
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module in top:
            tensors[f"{top[module]}.{kind}"] = tensor
            continue
        _, layer, part = module.split(".", 2)
        if part == "attention.qkv" and arch != "gpt2":
            q, k, v = tensor.split(c.qkv_sizes)
            if arch == "llama":
                q, k = interleave(q, c.n_heads), interleave(k, c.n_kv_heads)
            tensors |= {f"blk.{layer}.attn_{n}.{kind}": t for n, t in (("q", q), ("k", k), ("v", v))}
        elif part == "attention.qkv":
            tensors[f"blk.{layer}.attn_qkv.{kind}"] = tensor
        elif part == "mlp.gate_up":
            gate, up = tensor.chunk(2)
            tensors |= {f"blk.{layer}.ffn_gate.{kind}": gate, f"blk.{layer}.ffn_up.{kind}": up}
        else:
            tensors[f"blk.{layer}.{inner[part]}.{kind}"] = tensor
    return meta, {name: tensor.numpy() for name, tensor in tensors.items()}


def llama3_factors(c: ModelConfig) -> torch.Tensor:
    """By what each rotary frequency is divided, as the converter computes it."""
    factors = []
    for index in range(c.head_dim // 2):
        wave = 2 * math.pi * c.rope_theta ** (2 * index / c.head_dim)
        if wave < 8192 / 4:
            factors.append(1.0)
        elif wave > 8192 / 1:
            factors.append(8.0)
        else:
            smooth = (8192 / wave - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / 8.0 + smooth))
    return torch.tensor(factors)


def random_model(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config).eval()
    for parameter in model.parameters():  # biases and norms too, so that a lost one shows
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_same_logits(name: str, tmp_path: Path) -> None:
    model = random_model(CONFIGS[name])
    loaded, tokenizer = load_gguf(write_gguf(tmp_path / "m.gguf", *as_gguf(model)))
    assert tokenizer is None
    assert loaded.config == model.config
    ids = torch.arange(24)[None] % 40
    with torch.inference_mode():
        assert torch.equal(loaded(ids), model(ids))


def test_dtype(tmp_path: Path) -> None:
    loaded, _ = load_gguf(write_gguf(tmp_path / "m.gguf", *as_gguf(random_model(CONFIGS["qwen2"]))), torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_a_copied_head_is_a_tied_one(tmp_path: Path) -> None:
    meta, tensors = as_gguf(random_model(CONFIGS["gpt2"]))
    tensors["output.weight"] = tensors["token_embd.weight"].copy()
    loaded, _ = load_gguf(write_gguf(tmp_path / "m.gguf", meta, tensors))
    assert loaded.config.tie_embeddings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "gemma3"}, '"gemma3".*danlu reads llama, qwen2, qwen3, gpt2'),
        ({"llama.expert_count": 8}, "llama.expert_count"),
        ({"llama.rope.dimension_count": 4}, "only part of each head"),
        ({"llama.rope.scaling.type": "longrope"}, '"longrope"'),
        ({"llama.block_count": 3}, "has no tensor blk.2"),
        ({"llama.block_count": 1}, "has a tensor blk.1"),
        ({"llama.block_count": "two"}, "llama.block_count"),
        ({"llama.attention.head_count": 3}, "no possible model|should be"),
        ({"llama.feed_forward_length": 47}, "should be"),
        ({"llama.block_count": 2**31}, r"promises 2,147,483,648 layers|from 1 to"),
        ({"llama.block_count": 10**6}, "promises 1,000,000 layers"),
        ({"llama.block_count": True}, "has True as llama.block_count"),
        ({"llama.feed_forward_length": 2**32 - 1}, "intermediate_size must be from 1 to"),
        ({"llama.rope.freq_base": -1.0}, "rope_theta must be a positive number"),
        ({"llama.rope.freq_base": float("nan")}, "rope_theta must be a positive number"),
        ({"llama.attention.layer_norm_rms_epsilon": -1.0}, "norm_eps must be a positive number"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": -1.0}, "stretches its positions -1.0 times"),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": float("nan")}, "positions nan times"),
        ({"llama.embedding_length": None}, "has no key llama.embedding_length"),
    ],
)
def test_what_cannot_be_read_is_said(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    meta, tensors = as_gguf(random_model(CONFIGS["llama"]))
    meta = {key: value for key, value in (meta | change).items() if value is not None}
    with pytest.raises(UserError, match=message):
        load_gguf(write_gguf(tmp_path / "m.gguf", meta, tensors))


def test_foreign_rope_factors_are_refused(tmp_path: Path) -> None:
    meta, tensors = as_gguf(random_model(CONFIGS["llama"]))
    tensors["rope_freqs.weight"] = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    with pytest.raises(UserError, match="not Llama 3's"):
        load_gguf(write_gguf(tmp_path / "m.gguf", meta, tensors))
