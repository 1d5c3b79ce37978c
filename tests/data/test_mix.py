"""Mixtures of corpora these tests write: exact amounts, traceable copies, the same bytes every time."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from danlu.core.artifact import Artifact, Manifest, sha256_file
from danlu.core.errors import UserError
from danlu.core.recipe import build_recipe
from danlu.core.run import run_recipe, run_stage
from danlu.core.stage import StageRun
from danlu.core.store import Store
from danlu.data.document import Document, read_documents, write_documents
from danlu.data.mix import MixConfig, mix


def corpus(path: Path, name: str, n: int, size: int = 30, language: str = "zh", held: int = 1, **meta: Any) -> Artifact:
    folder = path / name
    folder.mkdir(parents=True)
    fields = {key: value for key, value in meta.items() if not callable(value)}
    for split, count in (("train", n), ("validation", held)):
        documents = [
            Document(
                f"{name}-{split}-{i}", "丹" * (size // 3), language, f"{name}.txt",
                meta=fields | {k: f(i) for k, f in meta.items() if callable(f)},
            )
            for i in range(count)
        ]  # fmt: skip
        write_documents(folder, split, documents)
    return Artifact("corpus", f"corpus-{name}", folder, Manifest("corpus", f"corpus-{name}", "test", "1", {}, {}, {}))


class Mixed:
    def __init__(self, tmp: Path, corpora: dict[str, Artifact], **config: Any) -> None:
        run = StageRun.for_test(tmp)
        self.metrics = mix(MixConfig(**config), run, dict(sorted(corpora.items())))
        self.path = run.out
        self.train = list(read_documents(run.out))
        self.plan = json.loads((run.out / "plan.json").read_text("utf-8"))
        self.groups = Counter(d.meta["mixture"] for d in self.train)


@pytest.fixture
def two(tmp_path: Path) -> dict[str, Artifact]:
    return {"zh": corpus(tmp_path, "zh", 100), "en": corpus(tmp_path, "en", 300, language="en")}


def test_by_default_everything_once_in_a_drawn_order(tmp_path: Path, two: dict[str, Artifact]) -> None:
    mixed = Mixed(tmp_path, two)
    assert mixed.groups == {"zh": 100, "en": 300} and len({d.id for d in mixed.train}) == 400
    half = Counter(d.meta["mixture"] for d in mixed.train[:200])
    assert abs(half["zh"] - 50) <= 1  # every prefix has the proportions of the whole
    assert [d.id for d in mixed.train[:3]] != ["en-train-0", "en-train-1", "en-train-2"]
    assert len(list(read_documents(mixed.path, "validation"))) == 2
    assert mixed.metrics["bytes"] == 400 * 30 == mixed.plan["bytes"]


def test_weights_caps_and_budget_are_exact(tmp_path: Path, two: dict[str, Artifact]) -> None:
    mixed = Mixed(tmp_path, two, weights={"zh": 3, "en": 1}, documents=400, max_epochs=4)
    assert mixed.groups == {"zh": 300, "en": 100}
    group = mixed.plan["groups"]["zh"]
    assert (group["full_epochs"], group["epochs"], group["readings"], group["documents_read"]) == (3, 3.0, 300, 100)
    ids = Counter(d.id.partition("~")[0] for d in mixed.train)
    assert {ids[f"zh-train-{i}"] for i in range(100)} == {3}
    third = next(d for d in mixed.train if d.id == "zh-train-7~3")
    assert third.meta["copy_of"] == "zh-train-7" and third.meta["reading"] == 3
    assert len({d.id for d in mixed.train}) == 400
    places = [i for i, d in enumerate(mixed.train) if d.id.startswith("zh-train-7~") or d.id == "zh-train-7"]
    assert min(b - a for a, b in itertools.pairwise(places)) > 100  # repetitions are far apart
    capped = Mixed(tmp_path / "capped", two, weights={"zh": 3, "en": 1}, documents=400, max_epochs={"zh": 1.5, "en": 1})
    assert capped.groups == {"zh": 150, "en": 250} and capped.plan["groups"]["zh"]["capped"]


def test_temperature_and_bytes(tmp_path: Path, two: dict[str, Artifact]) -> None:
    mixed = Mixed(tmp_path, two, temperature=1e9, bytes=3_000)
    assert mixed.groups == {"zh": 50, "en": 50} and mixed.plan["amount"] == mixed.plan["bytes"] == 3_000
    tokens = Mixed(tmp_path / "tokens", two, tokens=1_000, bytes_per_token=3.0, weights={"zh": 1})
    assert tokens.groups == {"zh": 100}
    unbound = Mixed(tmp_path / "unbound", two, weights={"zh": 1, "en": 1})
    assert unbound.groups == {"zh": 100, "en": 100}  # no budget: the most that keeps the shares


def test_groups_by_language_source_and_quality(tmp_path: Path) -> None:
    scored = corpus(tmp_path, "web", 100, quality=lambda i: i / 100)
    mixed = Mixed(
        tmp_path, {"web": scored}, by=["language", "source", "bucket"], weights={"zh/web.txt/3": 1}, max_epochs=2
    )
    assert {d.meta["quality"] >= 0.75 for d in mixed.train} == {True} and len(mixed.train) == 50
    assert mixed.plan["bucket_edges"] == pytest.approx([0.2475, 0.495, 0.7425])
    with pytest.raises(UserError, match="no document has a number"):
        Mixed(tmp_path / "none", {"web": scored}, by=["bucket"], bucket_by="missing")


def test_copies_are_rehydrated(tmp_path: Path) -> None:
    web = corpus(tmp_path, "web", 10, copies=lambda i: 100 if i == 3 else 1)
    mixed = Mixed(tmp_path, {"web": web}, rehydrate={50: 3})
    assert Counter(d.id.partition("~")[0] for d in mixed.train)["web-train-3"] == 3 and len(mixed.train) == 12


def test_phases_and_curriculum(tmp_path: Path, two: dict[str, Artifact]) -> None:
    phases = [{"share": 3, "weights": {"en": 1}}, {"share": 1, "weights": {"zh": 1}}]
    mixed = Mixed(tmp_path, two, documents=80, phases=phases)
    assert [d.meta["mixture"] for d in mixed.train] == ["en"] * 60 + ["zh"] * 20
    assert [p["budget"] for p in mixed.plan["phases"]] == [60, 20]
    web = corpus(tmp_path, "graded", 50, grade=lambda i: (i * 7) % 50)
    easy = Mixed(tmp_path / "easy", {"web": web}, order="ascending", order_by="grade")
    assert [d.meta["grade"] for d in easy.train] == list(range(50))


def test_what_corpora_share_is_taken_once_and_nothing_held_out_is_trained_on(tmp_path: Path) -> None:
    one, two = corpus(tmp_path, "one", 5), corpus(tmp_path, "two", 5)
    shared = [Document(f"one-train-{i}", "丹" * 10, "zh", "s") for i in range(2)]
    leaked = Document("one-validation-0", "丹" * 10, "zh", "s")
    write_documents(two.path, "train", [*shared, leaked, Document("own", "丹" * 10, "zh", "s")])
    mixed = Mixed(tmp_path, {"one": one, "two": two})
    assert mixed.groups == {"one": 5, "two": 1}
    rows = pq.read_table(mixed.path / "rejected-00000.parquet").to_pylist()
    assert Counter(r["reason"] for r in rows) == {"duplicate:id": 2, "held_out": 1}


def test_the_same_mixture_has_the_same_bytes(tmp_path: Path, two: dict[str, Artifact]) -> None:
    config: dict[str, Any] = {"weights": {"zh": 2, "en": 1}, "documents": 250, "max_epochs": 3}
    one, again = Mixed(tmp_path / "1", two, **config), Mixed(tmp_path / "2", dict(reversed(two.items())), **config)
    for name in ("plan.json", "train-00000.parquet", "report.json"):
        assert sha256_file(one.path / name) == sha256_file(again.path / name)
    other = Mixed(tmp_path / "3", two, seed=1, **config)
    assert [d.id for d in other.train] != [d.id for d in one.train] and other.groups == one.groups


def test_mistakes_are_one_sentence(tmp_path: Path, two: dict[str, Artifact]) -> None:
    for bad in ({"bytes": 5, "documents": 5}, {"by": []}, {"by": ["corpus", "corpus"]}, {"max_epochs": 0}):
        with pytest.raises(ValidationError):
            MixConfig(**bad)
    for wrong in ({"weights": {"fr": 1}}, {"max_epochs": {"fr": 1}}, {"order": "ascending", "order_by": "missing"}):
        with pytest.raises(UserError):
            Mixed(tmp_path / "wrong", two, **wrong)
    with pytest.raises(UserError):
        Mixed(tmp_path / "empty", {"x": corpus(tmp_path, "x", 0)})


def test_it_runs_in_a_recipe(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(12):
            words = " ".join(f"{name}{i}word{j % 37}x{j * i % 53}" for j in range(120))
            (tmp_path / name / f"{i}.txt").write_text(words, encoding="utf-8")
    prepare = {"use": "data.prepare", "quality": False}
    stages = {
        "a": {**prepare, "source": str(tmp_path / "a")},
        "b": {**prepare, "source": str(tmp_path / "b")},
        "blend": {"use": "data.mix", "corpora": ["$a", "$b"], "weights": {"a": 1, "b": 1}, "documents": 10},
    }
    built = run_recipe(build_recipe({"name": "r", "stages": stages}, {}), Store(tmp_path / "store")).artifacts
    assert built["blend"].manifest.metrics["train_documents"] == 10
    again = run_stage("data.mix", {"corpora": {"x": built["blend"].id}}, Store(tmp_path / "store"))
    assert again.manifest.metrics["train_documents"] == 10
