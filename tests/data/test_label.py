from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from danlu.core.artifact import Artifact, Manifest
from danlu.core.errors import UserError
from danlu.core.run import run_stage
from danlu.core.stage import StageRun
from danlu.core.store import Store
from danlu.data.document import Document, read_documents, write_documents
from danlu.data.label import LabelConfig, Rule, label
from danlu.data.labelling.label_studio import Task, read_tasks, write_tasks

RULES = [
    {"label": "spam", "pattern": "加微信|buy now"},
    {"label": "spam", "pattern": "[!！]", "least": 3},
    {"label": "fine", "pattern": "因为|because"},
]
TEXTS = [
    "加微信领奖！！！",
    "buy now because!!!",
    "因为下雨，所以地湿。",
    "Stars shine because they burn.",
    "没有规则说到这一篇",
]


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    (tmp_path / "in").mkdir()
    write_documents(tmp_path / "in", "train", [Document(f"d{i}", t, "zh", "s") for i, t in enumerate(TEXTS)])
    write_documents(tmp_path / "in", "validation", [Document("held", "加微信", "zh", "s")])
    return Artifact("corpus", "corpus-0", tmp_path / "in", Manifest("corpus", "corpus-0", "test", "1", {}, {}, {}))


def test_rules_and_people_make_labels_and_a_queue(tmp_path: Path, corpus: Artifact) -> None:
    people = tmp_path / "export.json"
    write_tasks(
        people,
        [
            Task("d4", TEXTS[4], votes={"1": "fine", "2": "fine"}),
            Task("d0", TEXTS[0], votes={"1": "spam", "2": "fine"}),
        ],
    )
    run = StageRun.for_test(tmp_path)
    config = LabelConfig.model_validate({"rules": RULES, "annotations": [str(people)], "queue": 10})
    metrics = label(config, run, corpus)
    rows = {d.id: d.meta for d in read_documents(run.out)}
    assert [rows[f"d{i}"].get("label") for i in range(5)] == ["spam", "spam", "fine", "fine", "fine"]
    assert 0.5 < rows["d0"]["label_probability"] <= 1 and metrics["labelled"] == 5
    report = json.loads((run.out / "report.json").read_text("utf-8"))
    assert report["voters"][0] == {"voter": "spam: 加微信|buy now", "votes": 2, "agrees": 1.0}
    assert report["agreement_of_people"]["pairs"][0]["documents"] == 2
    queued = read_tasks(run.out / "queue.json")
    assert {t.id for t in queued} <= {"d1", "d2", "d3"} and all(t.suggested for t in queued)
    assert [d.meta for d in read_documents(run.out, "validation")] == [{}]


def test_what_nobody_voted_on_has_no_label(tmp_path: Path, corpus: Artifact) -> None:
    run = StageRun.for_test(tmp_path)
    label(LabelConfig.model_validate({"rules": RULES, "model": "majority"}), run, corpus)
    assert "label" not in list(read_documents(run.out))[4].meta
    assert read_tasks(run.out / "queue.json")[0].id in ("d1", "d4")  # the contested and the unknown come first


def test_rules_by_hand() -> None:
    assert Rule(label="a", pattern="x", least=2).votes_for("X.x") and not Rule(
        label="a", pattern="x", least=2
    ).votes_for("x")
    assert Rule(label="a", pattern="x", below=True).votes_for("y") and not Rule(
        label="a", pattern="x", below=True
    ).votes_for("x")
    with pytest.raises(ValidationError, match="no regular expression"):
        Rule(label="a", pattern="(")


def test_mistakes(tmp_path: Path, corpus: Artifact) -> None:
    with pytest.raises(UserError, match="two labels"):
        label(LabelConfig(), StageRun.for_test(tmp_path), corpus)
    store = Store(tmp_path / "store")
    with pytest.raises(UserError, match="no file"):
        run_stage("data.label", {"corpus": str(corpus.path), "annotations": ["nowhere.json"]}, store)
