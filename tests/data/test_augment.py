from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from danlu.core.artifact import Artifact, Manifest
from danlu.core.stage import StageRun
from danlu.data.augment import AugmentConfig, augment
from danlu.data.document import Document, read_documents, write_documents
from tests.data.endpoint import asked, serve

ZH = "春天来了，河边的柳树发出新芽，孩子们在草地上放风筝。"
EN = "Spring has come, the willows by the river are green again, and children fly their kites."


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    (tmp_path / "in").mkdir()
    rows = [
        Document("zh", ZH, "zh", "s"),
        Document("en", EN, "en", "s"),
        Document("py", "def f(): pass", "code:python", "s"),
    ]
    write_documents(tmp_path / "in", "train", rows)
    write_documents(tmp_path / "in", "validation", [Document("held", ZH + "。", "zh", "s")])
    return Artifact("corpus", "corpus-0", tmp_path / "in", Manifest("corpus", "corpus-0", "test", "1", {}, {}, {}))


def test_noise_keeps_originals_and_lineage(tmp_path: Path, corpus: Artifact) -> None:
    run = StageRun.for_test(tmp_path)
    kinds = ["shape", "order", "drop", "keyboard", "case"]
    metrics = augment(AugmentConfig(copies=2, rate=0.3, kinds=kinds), run, corpus)
    rows = {d.id: d for d in read_documents(run.out)}
    assert set(rows) == {"zh", "en", "py", "zh+noise1", "zh+noise2", "en+noise1", "en+noise2"} and metrics["made"] == 4
    assert rows["zh"].text == ZH and rows["zh+noise1"].text != rows["zh+noise2"].text
    assert rows["en+noise1"].meta["augmented_from"] == "en" and set(rows["en+noise1"].meta["noise"]) <= set(kinds)
    assert [d.id for d in read_documents(run.out, "validation")] == ["held"]


def test_paraphrases_that_are_none_are_kept_aside(tmp_path: Path, corpus: Artifact) -> None:
    def reply(body: dict[str, Any], n: int) -> Any:
        text = asked(body)
        if "Rewrite" in text:
            return EN if "(2)" not in text else "The willows are green. Kites are flown by children, for it is spring."
        return "河岸柳树抽芽，春天到了，草地上有孩子放着风筝。" if "(2)" not in text else "好"

    with serve(reply) as server:
        endpoint = {"base_url": server.url, "model": "m"}
        run = StageRun.for_test(tmp_path)
        metrics = augment(AugmentConfig(method="paraphrase", copies=2, endpoint=endpoint), run, corpus)  # type: ignore[arg-type]
    made = [d for d in read_documents(run.out) if "+" in d.id]
    assert [d.id for d in made] == ["zh+paraphrase1", "en+paraphrase2"] and metrics["rejected"] == 2
    assert made[0].meta == {"augmented_from": "zh", "method": "paraphrase", "model": "m"}
    reasons = {r["id"]: r["reason"] for r in pq.read_table(run.out / "rejected-00000.parquet").to_pylist()}
    assert reasons == {"zh+paraphrase2": "augment:length", "en+paraphrase1": "augment:unchanged"}


def test_there_and_back(tmp_path: Path, corpus: Artifact) -> None:
    def reply(body: dict[str, Any], n: int) -> Any:
        text = asked(body)
        if "译成英文" in text:
            return (400, {}) if "春天来了" not in text and "english" not in text else "english version"
        return (
            "中文译文：" + text.rsplit("\n", 1)[-1][:12]
            if "english version" not in text
            else "春天到了，河边柳树长出新芽，孩子在放风筝。"
        )

    with serve(reply) as server:
        run = StageRun.for_test(tmp_path)
        augment(
            AugmentConfig(method="translate", endpoint={"base_url": server.url, "model": "m"}, languages=["zh"]),
            run,
            corpus,
        )  # type: ignore[arg-type]
        assert len(server.requests) == 2 and "english version" in asked(server.requests[1])
    (made,) = [d for d in read_documents(run.out) if "+" in d.id]
    assert made.id == "zh+translate1" and made.text.startswith("春天到了")


def test_what_is_missing_is_said_before_anything_runs() -> None:
    with pytest.raises(ValidationError, match="endpoint"):
        AugmentConfig(method="paraphrase")
    with pytest.raises(ValidationError, match="kinds"):
        AugmentConfig(kinds=["magic"])
