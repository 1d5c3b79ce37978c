"""`run_task`: what `danlu eval` prints, from a corpus, a file, or a model's own ancestry."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from danlu.core.artifact import Artifact, Manifest
from danlu.core.errors import UserError
from danlu.core.store import Store
from danlu.evaluate.tasks import TASKS, run_task, trained_context


def test_perplexity_on_a_corpus(model_artifact: Artifact, corpus: Artifact, tmp_path: Path) -> None:
    result = run_task("perplexity", model_artifact, data=corpus.path, store=Store(tmp_path))
    metrics, baselines = result["metrics"], result["baselines"]
    assert result["task"] == "perplexity" and result["n"] == 6
    assert metrics["bits_per_byte"] == pytest.approx(metrics["nats"] / math.log(2) / metrics["bytes"])
    assert metrics["interval_low"] <= metrics["bits_per_byte"] <= metrics["interval_high"]
    assert baselines["ngram"]["bits_per_byte"] < 1 < metrics["bits_per_byte"]  # a text seen before; random weights
    assert set(baselines) == {"xz", "ngram"}
    assert json.loads(json.dumps(result)) == result


def test_a_file_has_no_training_text_and_so_no_ngram(model_artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The quick brown fox jumps over the lazy dog. " * 5)
    result = run_task("perplexity", model_artifact, data=tmp_path / "a.txt", store=Store(tmp_path / "store"))
    assert set(result["baselines"]) == {"xz"} and result["n"] == 1


def test_the_corpus_of_the_ancestry(model_artifact: Artifact, corpus: Artifact, tmp_path: Path) -> None:
    store = Store(tmp_path)
    ids: dict[str, str] = {}
    for role, kind, source in (
        ("corpus", "corpus", corpus),
        ("tokens", "tokens", None),
        ("m", "model", model_artifact),
    ):
        identity = f"{kind}-{'0' * 15}{len(ids)}"
        with store.new_directory(identity) as out:
            for file in source.path.iterdir() if source is not None else ():
                (out / file.name).write_bytes(file.read_bytes())
            parents = (
                {"corpus": ids["corpus"]} if role == "tokens" else {"tokens": ids["tokens"]} if role == "m" else {}
            )
            store.publish(out, Manifest(kind, identity, "test.stage", "1", {}, parents, {}))
        ids[role] = identity
    own = store.get(ids["m"])
    assert own is not None
    assert run_task("perplexity", own, store=store)["n"] == 6
    with pytest.raises(UserError, match="does not descend"):
        run_task("perplexity", model_artifact, store=store)


def test_unknown_task_is_said(model_artifact: Artifact) -> None:
    with pytest.raises(UserError, match=r'no task "perplexitie".*did you mean "perplexity"'):
        run_task("perplexitie", model_artifact)


def test_generating_tasks_are_flat(model_artifact: Artifact, corpus: Artifact, tmp_path: Path) -> None:
    for name in ("python", "poems"):
        result = run_task(name, model_artifact, data=corpus.path, store=Store(tmp_path), cases=2)
        for row in (result["metrics"], *result["baselines"].values()):
            assert all(isinstance(value, int | float) for value in row.values())
        assert set(TASKS[name].columns) <= set(result["metrics"])
        assert {"ngram", "oracle"} <= set(result["baselines"])


def test_trained_context(tmp_path: Path) -> None:
    artifact = Artifact("model", "model-0", tmp_path, Manifest("model", "model-0", "", "", {}, {}, {}))
    assert trained_context(artifact) is None
    (tmp_path / "report.json").write_text('{"context": 32}')
    assert trained_context(artifact) == 32
    (tmp_path / "report.json").write_text("{broken")
    assert trained_context(artifact) is None
