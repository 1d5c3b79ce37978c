"""The stage tokenizer.train: a corpus in, a tokenizer directory out, the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.core.artifact import Artifact, Manifest
from danlu.core.errors import UserError
from danlu.core.stage import StageRun, get_stage
from danlu.data.document import Document
from danlu.tokenizer.pack import PackConfig
from danlu.tokenizer.pack import estimate as pack_estimate
from danlu.tokenizer.tokenizer import Tokenizer
from danlu.tokenizer.train import TrainConfig, train
from tests.tokenizer.shared import documents, write_corpus


def run(directory: Path, corpus: Artifact, **config: Any) -> tuple[dict[str, Any], Path]:
    settings = {"vocab_size": 400, "min_frequency": 1, **config}
    return train(TrainConfig(**settings), StageRun.for_test(directory), corpus), directory / "out"


def test_stage_is_registered_without_heavy_imports() -> None:
    stage = get_stage("tokenizer.train")
    assert stage.makes == "tokenizer"
    assert stage.takes == {"corpus": ("corpus",)}


def test_plan_can_estimate_once_the_corpus_is_known() -> None:
    corpus = Manifest("corpus", "c", "data.prepare", "1", {}, {}, {}, metrics={"bytes": 9_000_000})
    tokenizer = Manifest("tokenizer", "t", "tokenizer.train", "1", {}, {}, {}, metrics={"vocab_size": 70_000})
    for name, config in (("tokenizer.train", TrainConfig()), ("tokenizer.pack", PackConfig())):
        estimate = get_stage(name).estimate
        assert estimate is not None
        assert estimate(config, {"corpus": None, "tokenizer": None}).seconds is None
        assert estimate(config, {"corpus": corpus, "tokenizer": None}).seconds == 9
    assert pack_estimate(PackConfig(), {"corpus": corpus, "tokenizer": tokenizer}).disk_bytes == 12_000_000


def test_train_writes_a_tokenizer_and_a_report(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", documents(), documents("v")[:2])
    metrics, out = run(tmp_path / "run", corpus)
    assert sorted(file.name for file in out.iterdir()) == ["report.json", "tokenizer.json", "tokenizer_config.json"]
    tokenizer = Tokenizer.load(out)
    assert metrics["vocab_size"] == tokenizer.vocab_size == 400
    assert metrics["round_trip_errors"] == 0
    assert tokenizer.stop_ids == {tokenizer.eos_id, tokenizer.token_id("<|im_end|>")}
    report = json.loads((out / "report.json").read_text())
    assert report["measured_on"] == "validation"
    assert report["training_documents"] == 5
    assert set(report["languages"]) == {"zh", "code:python"}
    assert report["total"]["bytes_per_token"] == metrics["bytes_per_token"] > 1


def test_same_corpus_same_bytes(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", documents())
    _, first = run(tmp_path / "a", corpus)
    _, second = run(tmp_path / "b", corpus)
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_small_corpus_gives_a_smaller_vocabulary_and_says_so(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", documents()[:1])
    metrics, _ = run(tmp_path / "run", corpus, vocab_size=4096, min_frequency=2)
    assert metrics["vocab_size"] < 4096
    events = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    warnings = [e for e in events if "too small for more" in e.get("message", "")]
    assert len(warnings) == 1


def many(n: int) -> list[Document]:
    return [Document(id=f"{i:04d}", text=f"text number {i} " * 10, language="en", source="t") for i in range(n)]


def test_sample_is_bounded_and_decided_by_seed_alone(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", many(300))
    backwards = write_corpus(tmp_path / "backwards", many(300)[::-1])
    metrics, out = run(tmp_path / "a", corpus, max_training_bytes=5_000)
    assert 4_000 < metrics["training_bytes"] <= 5_000
    _, same = run(tmp_path / "b", backwards, max_training_bytes=5_000)
    _, other = run(tmp_path / "c", corpus, max_training_bytes=5_000, seed=1)
    assert (out / "tokenizer.json").read_bytes() == (same / "tokenizer.json").read_bytes()
    assert (out / "tokenizer.json").read_bytes() != (other / "tokenizer.json").read_bytes()
    whole, _ = run(tmp_path / "d", corpus)
    assert whole["training_bytes"] == sum(len(d.text) for d in many(300))


def test_one_document_larger_than_the_sample_is_still_used(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", many(1))
    metrics, _ = run(tmp_path / "run", corpus, max_training_bytes=10)
    assert metrics["training_bytes"] == len(many(1)[0].text)


def test_bad_input(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no documents"):
        run(tmp_path / "a", Artifact.from_path(tmp_path / "none", "corpus"))
    only_held_out = write_corpus(tmp_path / "held", [], documents())
    with pytest.raises(UserError, match="no text to train"):
        run(tmp_path / "b", only_held_out)
    corpus = write_corpus(tmp_path / "corpus", documents())
    with pytest.raises(UserError, match="vocab_size 100 is too small"):
        run(tmp_path / "c", corpus, vocab_size=100)
    with pytest.raises(UserError, match=r"chat template is broken at its line 1"):
        run(tmp_path / "d", corpus, chat_template="{% if %}")
