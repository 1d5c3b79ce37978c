"""Oracle: the same random weights in transformers and in danlu give the same logits, both ways, for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.core.errors import UserError
from danlu.model.config import ModelConfig
from danlu.model.families import FAMILIES, config_from_hf, config_to_hf
from danlu.model.hub import load_model, save_model
from danlu.model.transformer import Transformer

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"factor": 4.0, "original_max_position_embeddings": 16}


def llama(**changes: Any) -> Any:
    return transformers.LlamaConfig(**{**SMALL, **changes})


def rope(kind: str, theta: float = 10000.0, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **parameters}}


CASES: dict[str, Any] = {
    "gpt2": lambda: transformers.GPT2Config(vocab_size=99, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "gpt2 wide, exact gelu": lambda: transformers.GPT2Config(
        vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=40, activation_function="gelu"
    ),
    "gpt2 untied": lambda: transformers.GPT2Config(
        vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, tie_word_embeddings=False
    ),
    "llama 2, multi-head": lambda: llama(num_key_value_heads=4),
    "llama 3, grouped": lambda: llama(**rope("default", 500000.0)),
    "llama multi-query": lambda: llama(num_key_value_heads=1),
    "llama tied (SmolLM2)": lambda: llama(tie_word_embeddings=True, rms_norm_eps=1e-5),
    "llama biases": lambda: llama(attention_bias=True, mlp_bias=True),
    "llama free head_dim": lambda: llama(head_dim=16),
    "llama linear": lambda: llama(**rope("linear", factor=4.0)),
    "llama dynamic, beyond its length": lambda: llama(max_position_embeddings=16, **rope("dynamic", factor=2.0)),
    "llama dynamic, within its length": lambda: llama(**rope("dynamic", factor=2.0)),
    "llama 3.1": lambda: llama(**rope("llama3", 500000.0, **LLAMA3)),
    "llama yarn": lambda: llama(**rope("yarn", **YARN)),
    "llama yarn, all options": lambda: llama(
        **rope("yarn", **YARN, beta_fast=16.0, beta_slow=2.0, mscale=0.8, mscale_all_dim=0.5, truncate=False)
    ),
    "llama yarn, attention factor": lambda: llama(**rope("yarn", **YARN, attention_factor=1.3)),
    "mistral": lambda: transformers.MistralConfig(**SMALL, sliding_window=None),
    "mistral sliding": lambda: transformers.MistralConfig(**SMALL, sliding_window=7),
    "qwen2": lambda: transformers.Qwen2Config(**SMALL),
    "qwen2 sliding": lambda: transformers.Qwen2Config(
        **SMALL, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "qwen2 layer types": lambda: transformers.Qwen2Config(
        **SMALL,
        use_sliding_window=True,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "qwen2 yarn": lambda: transformers.Qwen2Config(**SMALL, **rope("yarn", 1e6, **YARN)),
    "qwen3": lambda: transformers.Qwen3Config(**SMALL, head_dim=16),
    "qwen3 biases, tied, sliding": lambda: transformers.Qwen3Config(
        **SMALL,
        head_dim=8,
        attention_bias=True,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=6,
        max_window_layers=2,
    ),
}


def oracle(config: Any) -> Any:
    """A transformers model whose every weight is random and large enough to matter (norms and biases too)."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.5) + (parameter.dim() < 2))
    return model


def ids(length: int = 40) -> torch.Tensor:
    return torch.randint(0, 99, (2, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers_both_ways(case: str, tmp_path: Path) -> None:
    reference = oracle(CASES[case]())
    reference.save_pretrained(tmp_path / "theirs")
    expected = reference(ids()).logits

    model = load_model(tmp_path / "theirs")
    torch.testing.assert_close(model(ids()), expected, atol=1e-4, rtol=1e-4)

    save_model(model, tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    assert again.dtype == torch.float32
    torch.testing.assert_close(again.eval()(ids()).logits, expected, atol=1e-4, rtol=1e-4)
    assert load_model(tmp_path / "ours").config == model.config


@pytest.mark.parametrize("name", ["linear", "dynamic", "llama3", "yarn"])
def test_the_rope_form_of_transformers_4_reads_the_same(name: str) -> None:
    extra = {"linear": {"factor": 4.0}, "dynamic": {"factor": 2.0}, "llama3": LLAMA3, "yarn": YARN}[name]
    new = {**SMALL, "model_type": "llama", "rope_parameters": {"rope_type": name, "rope_theta": 5e5, **extra}}
    old = {**SMALL, "model_type": "llama", "rope_theta": 5e5, "rope_scaling": {"type": name, **extra}}
    assert config_from_hf(new) == config_from_hf(old)
    assert config_from_hf(new).rope_theta == 5e5


def test_a_trained_length_left_out_is_the_configs(tmp_path: Path) -> None:
    config = ModelConfig(
        family="llama", vocab_size=9, hidden_size=8, n_layers=1, n_heads=2, intermediate_size=8, max_position=32,
        rope_scaling={"type": "yarn", "factor": 2.0},  # type: ignore[arg-type]
    )  # fmt: skip
    assert config_to_hf(config)["rope_scaling"]["original_max_position_embeddings"] == 32


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_of_a_family_has_a_name_on_disk(family: str) -> None:
    from danlu.model.hub import hf_parts

    fixed = dict(FAMILIES[family].fixed)
    config = ModelConfig(
        family=family, vocab_size=9, hidden_size=8, n_layers=2, n_heads=2, intermediate_size=8, tie_embeddings=False,
        **fixed,
    )  # fmt: skip
    with torch.device("meta"):
        model = Transformer(config)
    names = [part for name in model.state_dict() for part in hf_parts(config, name)[0]]
    assert len(set(names)) == len(names)
    assert config_from_hf(config_to_hf(config)) == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"model_type": "mamba"},
            "model_type 'mamba' is not supported. danlu reads gpt2, llama, mistral, qwen2, qwen3",
        ),
        ({"model_type": None}, "no model_type"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_key_value_heads": 3}, "n_heads 4 is not a multiple of n_kv_heads 3"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope type 'longrope'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "no factor"),
        ({"rope_scaling": {"rope_type": "linear", "factr": 2.0}}, 'did you mean "factor"?'),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_a_config_danlu_cannot_follow_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        config_from_hf({**SMALL, "model_type": "llama", **change})
    assert said in str(caught.value)


def test_a_family_refuses_to_be_saved_with_what_it_cannot_say() -> None:
    config = config_from_hf({**SMALL, "model_type": "llama"}).model_copy(update={"qk_norm": True})
    with pytest.raises(UserError, match="llama model cannot have qk_norm = True"):
        config_to_hf(config)
