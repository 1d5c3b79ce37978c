"""From ratings by a model to a classifier that rates everything: the chain of stages, on corpora these tests write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from danlu.core.artifact import Artifact, Manifest
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.data.document import Document, read_documents, write_documents
from danlu.data.rate import RateConfig, rate
from danlu.data.score import ScoreConfig, score
from danlu.data.train_classifier import TrainClassifierConfig, train_classifier
from danlu.data.train_perplexity import TrainPerplexityConfig, train_perplexity
from tests.data.endpoint import asked, serve
from tests.data.quality.test_classifier import texts


def opened(path: Path, kind: str = "corpus") -> Artifact:
    return Artifact(kind, f"{kind}-0", path, Manifest(kind, f"{kind}-0", "test", "1", {}, {}, {}))


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    (tmp_path / "corpus").mkdir()
    some, labels = texts(160, mixed=0.15)
    documents = [
        Document(f"d{i}", f"{text}。{i}", "zh", "test", meta={"good": good})
        for i, (text, good) in enumerate(zip(some, labels, strict=True))
    ]
    write_documents(tmp_path / "corpus", "train", documents[:150])
    write_documents(tmp_path / "corpus", "validation", documents[150:])
    return opened(tmp_path / "corpus")


def test_a_sample_is_rated_distilled_and_everything_scored(tmp_path: Path, corpus: Artifact) -> None:
    def teacher(body: dict[str, Any], n: int) -> Any:
        text = asked(body)
        if "。7\n" in text:
            return "I cannot say."
        if "。8\n" in text:
            return (400, {"error": "refused"})
        lessons = sum(word in text for word in ("定理", "三角形", "proof", "example", "结冰", "光合"))
        return f"Seen.\n评分：{4 if lessons >= 2 else 1}"

    with serve(teacher) as server:
        run = StageRun.for_test(tmp_path / "rate")
        metrics = rate(RateConfig(base_url=server.url, model="t", documents=120), run, corpus)
        asked_for = len(server.requests)
        again = StageRun(tmp_path / "again", run.work, run.events)  # what a killed run had asked is kept
        again.out.mkdir()
        rate(RateConfig(base_url=server.url, model="t", documents=120), again, corpus)
        assert asked_for == 120 and len(server.requests) - asked_for == metrics["failed"]
    assert metrics["documents"] + metrics["failed"] + metrics["unclear"] == 120
    rated = opened(run.out)
    assert {d.meta["education"] for d in read_documents(rated)} == {1.0, 4.0}

    trained = StageRun.for_test(tmp_path / "train")
    found = train_classifier(TrainClassifierConfig(label="education"), trained, rated)
    report = json.loads((trained.out / "report.json").read_text("utf-8"))
    assert found["roc_auc"] > 0.8 and report["cross_validated"]["f1"]["low"] <= report["cross_validated"]["f1"]["value"]
    assert (
        report["always_good"]["recall"] == 1.0
        and sum(report["cross_validated"]["confusion"].values()) == found["examples"]
    )

    scored = StageRun.for_test(tmp_path / "score")
    counts = score(ScoreConfig(keep_from=0.5), scored, corpus, opened(trained.out, "report"))
    assert counts["train_documents"] + counts["rejected"] == 150 and counts["validation_documents"] == 10
    kept = list(read_documents(scored.out))
    assert sum(d.meta["good"] for d in kept) > 0.8 * len(kept) and all(d.meta["quality"] >= 0.5 for d in kept)
    rejected = pq.read_table(scored.out / "rejected-00000.parquet").to_pylist()
    assert {r["reason"] for r in rejected} == {"quality:quality"} and "quality" in json.loads(rejected[0]["meta"])


def test_two_corpora_are_good_and_bad(tmp_path: Path) -> None:
    sides = {}
    for name, wanted in (("good", True), ("bad", False)):
        (tmp_path / name).mkdir()
        some = [t for t, label in zip(*texts(200, mixed=0.1), strict=True) if label == wanted]
        write_documents(tmp_path / name, "train", [Document(f"{name}{i}", t, "zh", "s") for i, t in enumerate(some)])
        sides[name] = opened(tmp_path / name)
    run = StageRun.for_test(tmp_path)
    assert train_classifier(TrainClassifierConfig(kind="bayes"), run, sides["good"], sides["bad"])["roc_auc"] > 0.8
    for config, bad in ((TrainClassifierConfig(), None), (TrainClassifierConfig(label="x"), sides["bad"])):
        with pytest.raises(UserError, match="in one way"):
            train_classifier(config, run, sides["good"], bad)
    with pytest.raises(UserError, match="no document has"):
        train_classifier(TrainClassifierConfig(label="x"), run, sides["good"])


def test_perplexity_filters_both_ends(tmp_path: Path, corpus: Artifact) -> None:
    run = StageRun.for_test(tmp_path / "train")
    metrics = train_perplexity(TrainPerplexityConfig(slots=1 << 14), run, corpus)
    assert 0 < metrics["bits_per_byte"] < 3
    (tmp_path / "odd").mkdir()
    odd = [
        Document("noise", "犇猋骉鱻羴麤淼焱垚" * 9, "zh", "s"),
        Document("clean", next(read_documents(corpus)).text, "zh", "s"),
    ]
    write_documents(tmp_path / "odd", "train", odd)
    scored = StageRun.for_test(tmp_path / "score")
    counts = score(ScoreConfig(keep_to=5.0), scored, opened(tmp_path / "odd"), opened(run.out, "report"))
    assert counts["rejected"] == 1 and [d.id for d in read_documents(scored.out)] == ["clean"]
    with pytest.raises(UserError, match="power of two"):
        train_perplexity(TrainPerplexityConfig(slots=5_000), run, corpus)
