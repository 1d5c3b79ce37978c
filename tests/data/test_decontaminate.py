from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from danlu.core.artifact import Artifact, Manifest
from danlu.core.stage import StageRun, get_stage
from danlu.data.decontaminate import DecontaminateConfig, decontaminate
from danlu.data.document import Document, read_documents, write_documents

QUESTION = "一艘船顺流而下每小时行驶二十八千米，逆流而上每小时行驶二十千米，求水流的速度"
CLEAN = [
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。" * 3,
    "The river runs past the mill and under the bridge. " * 5,
]


def corpus_of(path: Path, train: list[str], validation: tuple[str, ...] = ()) -> Artifact:
    path.mkdir()
    for split, texts in (("train", train), ("validation", validation)):
        write_documents(path, split, [Document(f"{split}{i}", t, "zh", "test") for i, t in enumerate(texts)])
    return Artifact("corpus", "corpus-0", path, Manifest("corpus", "corpus-0", "test", "1", {}, {}, {}))


def test_documents_with_items_leave_both_splits(tmp_path: Path) -> None:
    exam = tmp_path / "exam.jsonl"
    exam.write_text(json.dumps({"question": QUESTION, "answer": "四千米"}, ensure_ascii=False), encoding="utf-8")
    corpus = corpus_of(tmp_path / "in", [*CLEAN, f"题库：{QUESTION}。解："], (CLEAN[0], QUESTION.replace("行驶", "走")))
    run = StageRun.for_test(tmp_path)
    metrics = decontaminate(DecontaminateConfig(benchmarks=[f"exam={exam}"]), run, corpus)
    assert metrics == {"documents": 3, "train_documents": 2, "validation_documents": 1, "rejected": 2, "items_found": 1}
    assert [d.text for d in read_documents(run.out)] == CLEAN
    rows = pq.read_table(run.out / "rejected-00000.parquet").to_pylist()
    assert [(r["id"], r["reason"]) for r in rows] == [
        ("train2", "contamination:exam"),
        ("validation1", "contamination:exam"),
    ]
    hit = json.loads(rows[0]["meta"])["contamination"][0]
    assert rows[0]["text"][hit["start"] : hit["end"]] == QUESTION and hit["kind"] == "exact"
    report = json.loads((run.out / "report.json").read_text("utf-8"))
    assert [h["kind"] for h in report["hits"]] == ["exact", "fuzzy"]
    assert report["benchmarks"]["exam"]["hits"] == 2 and list(report["benchmarks"]["exam"]["files"]) == ["exam.jsonl"]


def test_it_is_a_stage() -> None:
    assert get_stage("data.decontaminate").makes == "corpus"
