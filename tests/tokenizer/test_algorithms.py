"""Unigram and WordPiece of bytes: every text comes back, also through the library's own decoder."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.tokenizer import algorithms
from danlu.tokenizer.algorithms import train_unigram, train_wordpiece
from danlu.tokenizer.pack import PackConfig, pack
from danlu.tokenizer.shards import TokenShards
from danlu.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.shared import SPECIAL, TEXTS
from tests.tokenizer.test_train import documents, run, write_corpus


@cache
def made(algorithm: str) -> Tokenizer:
    train = {"unigram": train_unigram, "wordpiece": train_wordpiece}[algorithm]
    return Tokenizer(train(TEXTS * 4, vocab_size=700, special_tokens=SPECIAL))


@pytest.mark.parametrize("algorithm", ["unigram", "wordpiece"])
@settings(max_examples=80, deadline=None)
@given(st.text(max_size=60) | st.text("##‿ab 明月\x00", max_size=60))
def test_every_text_comes_back(algorithm: str, text: str) -> None:
    tokenizer = made(algorithm)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.library.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("algorithm", ["unigram", "wordpiece"])
def test_what_is_learned(algorithm: str) -> None:
    tokenizer = made(algorithm)
    assert 256 < tokenizer.vocab_size <= 700
    assert [tokenizer.token_id(token) for token in SPECIAL] == [0, 1, 2, 3]
    for text in [*TEXTS, "a" * 3000, "中" * 500, "##a ##", "‿a", "\U0010ffff", "x<|im_end|>"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.special_ids.isdisjoint(tokenizer.encode(text))
    assert len(tokenizer.encode("furnace")) < 6, "it learned something"
    if algorithm == "wordpiece":  # the library's Unigram is not the same twice, as the module says
        assert tokenizer.to_json() == train_wordpiece(TEXTS * 4, vocab_size=700, special_tokens=SPECIAL)


def test_sample_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "SAMPLE_BYTES", 1000)
    counts: dict[str, int] = {}
    train_unigram(["furnace " * 30] * 100, vocab_size=300, counts=counts)
    assert counts == {"sample_bytes": 1200, "sample_documents": 5}


def test_bad_input() -> None:
    with pytest.raises(UserError, match="512 bytes and 0 special tokens already need 512"):
        train_wordpiece(TEXTS, vocab_size=300)
    with pytest.raises(UserError, match="no text"):
        train_unigram([" "], vocab_size=300)


@pytest.mark.parametrize("algorithm", ["unigram", "wordpiece"])
def test_stage_and_packing(tmp_path: Path, algorithm: str) -> None:
    corpus = write_corpus(tmp_path / "corpus", documents(), documents("v")[:2])
    metrics, out = run(tmp_path / "run", corpus, vocab_size=600, algorithm=algorithm)
    assert metrics["round_trip_errors"] == 0
    assert "sample_bytes" in json.loads((out / "report.json").read_text())
    tokenizer = Tokenizer.load(out)
    messages = [{"role": "user", "content": "<|im_end|> 床前"}]
    assert tokenizer.decode(tokenizer.encode_chat(messages, add_generation_prompt=True)).startswith("<|im_start|>user")
    from danlu.core.artifact import Artifact
    from danlu.core.stage import StageRun

    packing = StageRun.for_test(tmp_path / "pack")
    pack(PackConfig(), packing, corpus, Artifact.from_path(out, "tokenizer"))
    shards = TokenShards.open(tmp_path / "pack/out")
    first = shards.document(0)
    assert tokenizer.decode(shards.read(first[1], first[2] - first[1] - 1).tolist()) == documents()[0].text
