"""A model with an extended tokenizer: old logits to the bit, new rows the mean of what the token is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.model.config import ModelConfig
from danlu.model.hub import load, save_model
from danlu.model.transformer import Transformer
from danlu.model.vocabulary import VocabularyConfig, extend_embeddings, vocabulary
from danlu.tokenizer.extend import extend_tokenizer
from tests.tokenizer.shared import small_tokenizer

LAW = ["上诉人不服一审判决，上诉至最高人民法院。"] * 4


def tiny(tie: bool, rows: int = 420) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        ModelConfig(
            family="llama",
            vocab_size=rows,
            hidden_size=16,
            n_layers=1,
            n_heads=2,
            intermediate_size=32,
            tie_embeddings=tie,
        )
    )


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("rows", [420, 425, 512])
def test_old_logits_stay_and_new_rows_are_means(tie: bool, rows: int) -> None:
    model, old = tiny(tie, rows), small_tokenizer()
    new, mapping = extend_tokenizer(old, LAW, new_tokens=12, min_frequency=2)
    ids = torch.tensor([old.encode("床前明月光 furnace")])
    before, weight, head = model(ids), model.embedding.weight.detach().clone(), model.head_weight.detach().clone()
    assert extend_embeddings(model, old, new) == list(range(420, 432))
    after = model(ids)
    assert after.shape[-1] == model.config.vocab_size == max(rows, 432)
    assert torch.equal(after[..., :420], before[..., :420])
    for token_id, parts in mapping.items():
        assert torch.allclose(model.embedding.weight[token_id], weight[parts].mean(0), atol=1e-7)
        assert torch.allclose(model.head_weight[token_id], head[parts].mean(0), atol=1e-7)
    assert torch.equal(model.embedding.weight[432:rows], weight[432:rows])
    assert (model.lm_head is None) == tie


def test_a_foreign_tokenizer_is_refused() -> None:
    old = small_tokenizer()
    other, _ = extend_tokenizer(old, LAW, new_tokens=5, min_frequency=2)
    with pytest.raises(UserError, match="tokens, the model 420 rows"):
        extend_embeddings(tiny(True), other, other)
    from danlu.tokenizer.bpe import train_bpe
    from danlu.tokenizer.tokenizer import Tokenizer

    with pytest.raises(UserError, match="token 0 is another one"):
        extend_embeddings(tiny(True), old, Tokenizer(train_bpe(LAW, vocab_size=280)))


def test_stage(tmp_path: Path) -> None:
    old = small_tokenizer()
    new, _ = extend_tokenizer(old, LAW, new_tokens=12, min_frequency=2)
    save_model(tiny(False), tmp_path / "model", old)
    new.save(tmp_path / "tokenizer")
    metrics = vocabulary(
        VocabularyConfig(),
        StageRun.for_test(tmp_path / "run"),
        Artifact.from_path(tmp_path / "model", "model"),
        Artifact.from_path(tmp_path / "tokenizer", "tokenizer"),
    )
    assert metrics == {"new_tokens": 12, "rows_before": 420, "rows": 432}
    model, tokenizer = load(tmp_path / "run/out")
    assert tokenizer is not None and tokenizer.fingerprint == new.fingerprint
    assert model.config.vocab_size == tokenizer.vocab_size == 432
