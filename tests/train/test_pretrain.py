"""The stage on real shards: a model that others can open, the same bytes for the same inputs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.core.artifact import Artifact, describe_files
from danlu.core.device import Device
from danlu.core.errors import UserError
from danlu.core.events import read_events
from danlu.core.stage import StageRun
from danlu.model.presets import resolve_model
from danlu.train.pretrain import PretrainConfig, derive, estimate, pretrain, spread
from danlu.train.training import rows_that_fit

MODEL = {"preset": "nano", "hidden_size": 32, "n_layers": 1, "n_heads": 2, "head_dim": 16, "intermediate_size": 64}


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tokens(tmp_path_factory.mktemp("tokens"))


def make_tokens(folder: Path) -> Artifact:
    """A tokenizer and shards from two hundred lines of arithmetic."""
    from danlu.data.document import Document, write_documents
    from danlu.tokenizer.pack import PackConfig, pack
    from danlu.tokenizer.train import TrainConfig
    from danlu.tokenizer.train import train as train_tokenizer

    lines = [f"{i} plus {i + 1} is {2 * i + 1}.\n" * 4 for i in range(200)]
    documents = [Document(f"d{i:04d}", line, "en", "test", "", {}) for i, line in enumerate(lines)]
    (folder / "corpus").mkdir()
    write_documents(folder / "corpus", "train", documents[:180])
    write_documents(folder / "corpus", "validation", documents[180:])
    corpus = Artifact.from_path(folder / "corpus", "corpus")
    run = StageRun.for_test(folder / "tokenizer")
    train_tokenizer(TrainConfig(vocab_size=300), run, corpus)
    tokenizer = Artifact.from_path(run.out, "tokenizer")
    run = StageRun.for_test(folder / "tokens")
    pack(PackConfig(), run, corpus, tokenizer)
    return Artifact.from_path(run.out, "tokens")


def config(**changes: Any) -> PretrainConfig:
    keys = {"model": MODEL, "budget": "12 steps", "context": 32, "batch_tokens": 256, "dtype": "float32"}
    return PretrainConfig(**{**keys, "sample_prompts": ["1 plus"], "sample_tokens": 4, **changes})


def test_makes_a_model_that_opens_and_a_report(tokens: Artifact, tmp_path: Path) -> None:
    from danlu.model.hub import load

    run = StageRun.for_test(tmp_path)
    metrics = pretrain(config(), run, tokens)
    model, tokenizer = load(run.out)
    assert tokenizer is not None and model(torch.tensor([[1, 2, 3]])).shape == (1, 3, tokenizer.vocab_size)
    report = json.loads((run.out / "report.json").read_text())
    assert report["steps"] == 12 and report["tokens"] == pytest.approx(12 * 256, rel=0.02)
    assert len(report["curve"]) == 12 and len(report["validation_curve"]) == 5
    assert report["reference"]["verdict"] == "no reference yet"
    assert metrics["validation_loss"] == report["validation_loss"] < 5.8
    assert metrics["tokens_per_second"] > 0 and 0 < metrics["share_of_peak"] < 1
    assert "seconds" not in json.dumps(report)
    assert (run.out / "loss.svg").read_text().startswith("<svg")
    assert run.events.path is not None
    assert next(e for e in read_events(run.events.path) if e["event"] == "sample")["text"].startswith("1 plus")


def test_same_inputs_same_bytes(tokens: Artifact, tmp_path: Path) -> None:
    runs = [StageRun.for_test(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        pretrain(config(), run, tokens)
    assert describe_files(runs[0].out) == describe_files(runs[1].out)


def test_auto_derives_and_says_so(tokens: Artifact, tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    pretrain(config(model="auto", budget="2e9 flops", batch_tokens=None, sample_prompts=[]), run, tokens)
    derived = json.loads((run.out / "report.json").read_text())["derived"]
    assert derived[0].startswith("1. compute C = 2e+09") and any(line.startswith("6. batch") for line in derived)


def test_auto_needs_a_budget_of_compute(tokens: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be derived"):
        pretrain(config(model="auto"), StageRun.for_test(tmp_path), tokens)


def test_share_of_nothing(tokens: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="share of nothing"):
        pretrain(config(budget="50%"), StageRun.for_test(tmp_path), tokens)


def test_missing_tokenizer_and_missing_shards(tokens: Artifact, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "tokens.json").write_text("{}")
    with pytest.raises(UserError, match="no tokenizer/"):
        pretrain(config(), StageRun.for_test(tmp_path / "run"), Artifact.from_path(empty, "tokens"))


def test_derived_defaults_are_told() -> None:
    class Fake:
        vocab_size, bos_id, eos_id, pad_id, stop_ids = 300, None, 0, None, frozenset({0})

    plain = PretrainConfig(model=MODEL, context=128, budget="50 steps")
    shape, batch, rate, lines = derive(plain, Fake(), 10**6, 1e11)
    assert (batch, rate) == (8192, 6e-3) and shape.eos_ids == (0,)
    timed = PretrainConfig(model=MODEL, context=128, budget="4m")
    _, small, _, why = derive(timed, Fake(), 10**6, 1e11)
    _, large, _, _ = derive(timed, Fake(), 10**6, 1e14)
    assert small == pytest.approx(5000, rel=0.05) and large > 8 * small and "FLOPs" in why[0]
    assert any("batch_tokens" in line for line in lines) and shape.max_position == 128


def test_estimate_needs_no_torch() -> None:
    assert estimate(PretrainConfig(budget="2m"), {}).seconds == 120


def test_rows_that_fit() -> None:
    small = Device("cuda", "", 1, 24 * 2**30, 0, {}, 0.0, "bfloat16", ())
    assert rows_that_fit(small, resolve_model("nano", 4096), 256) == 65536 // 256
    assert rows_that_fit(small, resolve_model("base", 32768), 2048) < 16
    assert rows_that_fit(dataclasses.replace(small, memory_bytes=1), resolve_model("base", 32768), 2048) == 1


def test_spread() -> None:
    assert spread(10, 4) == [0, 2, 5, 7] and spread(3, 10) == [0, 1, 2]
