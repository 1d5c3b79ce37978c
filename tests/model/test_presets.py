from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.core.errors import UserError
from danlu.model.hub import load_model, save_model
from danlu.model.presets import PRESETS, resolve_model
from danlu.model.transformer import Transformer


@pytest.mark.parametrize(
    ("name", "vocab_size", "low", "high"),
    [("nano", 4096, 2e6, 4.5e6), ("micro", 8192, 8e6, 13e6), ("small", 16384, 25e6, 36e6), ("base", 32768, 11e7, 14e7)],
)  # fmt: skip
def test_presets_have_the_size_their_name_promises(name: str, vocab_size: int, low: float, high: float) -> None:
    with torch.device("meta"):
        model = Transformer(resolve_model(name, vocab_size))
    assert low < model.n_params < high


def test_a_mapping_starts_from_a_preset_or_from_nothing() -> None:
    assert resolve_model({"preset": "nano", "n_layers": 6}, 4096).n_layers == 6
    plain = {"hidden_size": 64, "n_layers": 1, "n_heads": 2, "intermediate_size": 96}
    assert resolve_model({**plain, "family": "llama"}, 100).head_dim == 32
    gpt2 = resolve_model({**plain, "family": "gpt2"}, 100)
    assert (gpt2.norm, gpt2.positions, gpt2.mlp) == ("layer", "learned", "gelu")
    llama = resolve_model({"preset": "nano", "family": "llama"}, 4096)
    assert not llama.qk_norm and llama.hidden_size == PRESETS["nano"]["hidden_size"]


def test_a_table_may_be_larger_than_the_tokenizer_and_not_smaller() -> None:
    assert resolve_model({"preset": "nano", "vocab_size": 128}, 100).vocab_size == 128
    with pytest.raises(UserError, match="smaller than the tokenizer's 100"):
        resolve_model({"preset": "nano", "vocab_size": 64}, 100)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nanno", 'did you mean "nano"?'),
        ({"preset": "nano", "hiden_size": 3}, 'did you mean "hidden_size"?'),
        ({"hidden_size": 64}, "the model has no n_layers"),
        ({"preset": "nano", "n_layers": "many"}, "n_layers"),
        ({"preset": "nano", "n_heads": 3, "n_kv_heads": 2}, "n_heads 3 is not a multiple of n_kv_heads 2"),
        ({"preset": "nano", "family": "lama"}, 'did you mean "llama"?'),
        ({"preset": "nano", "qk_norm": False}, "qwen3 model cannot have qk_norm = False"),
    ],
)
def test_mistakes_are_named(spec: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_model(spec, 100)
    assert said in str(caught.value)


def test_a_preset_opens_in_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = Transformer(resolve_model("nano", 256)).eval()
    save_model(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, 256, (1, 20))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(load_model(tmp_path)(ids), model(ids))
