"""A model cut to the tokens that a corpus uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.compress.vocabulary import VocabularyConfig, vocabulary
from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.model.hub import load, load_model, save_model
from danlu.model.quantized import quantize_
from tests.compress.models import LLAMA, saved_corpus, saved_model
from tests.tokenizer.shared import CODE, POEM, PROSE


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False, "vocab_size": 450}], ids=["tied", "own head"])
def test_same_hidden_states_and_the_logits_that_are_left(changes: dict[str, Any], tmp_path: Path) -> None:
    model = saved_model(tmp_path / "model", LLAMA, **changes)
    run = StageRun.for_test(tmp_path)
    metrics = vocabulary(VocabularyConfig(), run, model, saved_corpus(tmp_path / "corpus", [PROSE, CODE]))
    (before, old), (after, new) = load(model.path), load(run.out)
    assert old is not None and new is not None
    assert metrics["rows"] == new.vocab_size == after.config.vocab_size < metrics["rows_before"]
    assert metrics["parameters"] == after.n_params and metrics["corpus_covered"] == 1.0
    assert set(after.config.eos_ids) == new.stop_ids and after.config.pad_id == new.pad_id
    ids, their_ids = torch.tensor([old.encode(PROSE)]), torch.tensor([new.encode(PROSE)])
    with torch.no_grad():
        assert torch.equal(before.hidden(ids), after.hidden(their_ids))
        logits, left = before(ids)[0], after(their_ids)[0]
    names = [new.token_bytes(i) for i in range(new.vocab_size)]
    olds = {old.token_bytes(i): i for i in range(old.vocab_size)}
    assert torch.allclose(left, logits[:, [olds[name] for name in names]], atol=1e-5)
    foreign = new.encode(POEM)
    assert len(foreign) > len(old.encode(POEM)) and new.decode(foreign) == POEM
    assert torch.isfinite(after(torch.tensor([foreign]))).all()


def test_a_chat_in_another_language_is_cut_as_before(tmp_path: Path) -> None:
    model, run = saved_model(tmp_path / "model"), StageRun.for_test(tmp_path)
    vocabulary(VocabularyConfig(), run, model, saved_corpus(tmp_path / "corpus", [POEM]))
    old, new = load(model.path)[1], load(run.out)[1]
    assert old is not None and new is not None
    chat = [{"role": "user", "content": POEM}]
    mine, theirs = (t.encode_chat(chat, add_generation_prompt=True) for t in (new, old))
    assert [new.token_bytes(i) for i in mine] == [old.token_bytes(i) for i in theirs]


def test_rare_tokens_go(tmp_path: Path) -> None:
    model, corpus = saved_model(tmp_path / "model"), saved_corpus(tmp_path / "corpus", [PROSE] * 9 + [CODE])
    metrics = [
        vocabulary(VocabularyConfig(min_count=count), StageRun.for_test(tmp_path / str(count)), model, corpus)
        for count in (1, 5)
    ]
    assert metrics[1]["rows"] < metrics[0]["rows"]
    assert 0.9 < metrics[1]["corpus_covered"] < 1
    assert json.loads((tmp_path / "5/out/report.json").read_text())["rows"] == metrics[1]["rows"]


def test_what_is_refused(tmp_path: Path) -> None:
    model, run = saved_model(tmp_path / "model"), StageRun.for_test(tmp_path)
    corpus = saved_corpus(tmp_path / "corpus")
    with pytest.raises(UserError, match="has no text"):
        vocabulary(VocabularyConfig(), run, model, saved_corpus(tmp_path / "empty", [""]))
    network = load_model(model.path)
    save_model(network, tmp_path / "bare")
    with pytest.raises(UserError, match="carries no tokenizer"):
        vocabulary(VocabularyConfig(), run, Artifact.from_path(tmp_path / "bare"), corpus)
    quantize_(network, 8)
    save_model(network, tmp_path / "int8", load(model.path)[1])
    with pytest.raises(UserError, match="quantised already"):
        vocabulary(VocabularyConfig(), run, Artifact.from_path(tmp_path / "int8"), corpus)
