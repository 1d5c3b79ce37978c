"""Deciding on a measured corpus: thresholds change, texts are not read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.data.measure import MeasureConfig, measure
from danlu.data.prepare import PrepareConfig, prepare
from danlu.data.select import SelectConfig, select
from tests.data.test_prepare import Corpus, _folder, _page

BANNER = "本站所有内容均来自网友投稿，请勿用于商业用途。\n"
SPAM = "激情视频 成人电影 国产自拍 偷拍自拍 无码 女优 裸聊 同城上门 约炮 成人网站在线观看 " * 3


def _rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"text": _page(i), "url": f"https://a.cn/{i}"} for i in range(30)]
    rows.append({"text": _page(100), "url": "http://www.a.cn/3/?utm_source=x"})  # the address of page 3
    rows.append({"text": SPAM, "url": "https://b.cn/1"})
    rows += [{"text": BANNER + _page(200 + i) + BANNER} for i in range(5)]
    rows.append({"text": BANNER})
    shared = _page(300, 200)
    rows += [{"text": _page(301 + i, 400) + shared + _page(311 + i, 400)} for i in range(2)]
    rows.append({"text": _page(400) + "Half of this page is written in another language than the rest of it.\n" * 2})
    return rows


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("select")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows())
    source = _folder(folder / "in", {"rows.jsonl": lines, "LICENSE": "MIT License\n\nPermission is hereby granted"})
    run = StageRun.for_test(folder / "measured")
    measure(MeasureConfig(source=source + "/rows.jsonl", licence="MIT"), run)
    return Artifact.from_path(run.out, "corpus")


@pytest.fixture
def chosen(measured: Artifact, tmp_path: Path) -> Any:
    count = 0

    def choose(**config: Any) -> Corpus:
        nonlocal count
        count += 1
        run = StageRun.for_test(tmp_path / f"run-{count}")
        return Corpus(run.out, select(SelectConfig(**config), run, measured))

    return choose


def test_measure_and_select_are_prepare(measured: Artifact, tmp_path: Path, chosen: Any) -> None:
    source = measured.path.parents[1] / "in" / "rows.jsonl"
    run = StageRun.for_test(tmp_path / "both")
    prepare(PrepareConfig(source=str(source), licence="MIT"), run)
    both = chosen()
    for file in run.out.iterdir():
        assert file.read_bytes() == (both.path / file.name).read_bytes(), file.name


def test_addresses_and_safety(chosen: Any) -> None:
    reasons = chosen().reasons()
    assert reasons.pop("duplicate:url") in (["rows.jsonl:4"], ["rows.jsonl:31"])
    assert reasons.pop("safety:adult") == ["rows.jsonl:32"]
    loose = chosen(url_duplicates=False, safety={}, quality=False).reasons()
    assert "duplicate:url" not in loose and "safety:adult" not in loose


def test_thresholds_change_what_is_kept_and_not_the_scores(chosen: Any) -> None:
    one, other = chosen(), chosen(thresholds={"too_short": {"zh": 200}})
    assert len(other.kept) < len(one.kept)
    assert set(other.reasons()) > {"quality:too_short"}
    scores = [pq.read_table(c.path / "scores-00000.parquet").drop_columns(["place"]) for c in (one, other)]
    assert scores[0] == scores[1] and "score.units" in scores[0].column_names
    places = pq.read_table(other.path / "scores-00000.parquet")["place"].to_pylist()
    assert sorted(set(places)) == sorted({"train", "validation", *other.reasons()})


def test_rules_can_be_chosen_and_switched_off(chosen: Any) -> None:
    assert len(chosen(thresholds={"too_short": None}, rules=["danlu"]).kept) >= len(chosen().kept)
    assert len(chosen(rules=["gopher", "fineweb"]).kept) <= len(chosen(quality=False).kept)
    with pytest.raises(ValidationError, match='no rules "gofer"'):
        chosen(rules=["gofer"])
    with pytest.raises(ValidationError, match='no rule "to_short"'):
        chosen(thresholds={"to_short": 3})


def test_repeated_lines_go_from_all_documents(chosen: Any) -> None:
    corpus = chosen(repeated_lines=4, near_duplicates=1.0)
    assert not any(BANNER in d.text for d in corpus.kept)
    assert corpus.reasons()["duplicate:parts"] == ["rows.jsonl:38"]
    assert corpus.report["trimmed"]["lines"]["count"] >= 10
    assert BANNER.strip() in corpus.report["trimmed"]["lines"]["samples"]


def test_a_repeated_passage_stays_where_it_is_first(chosen: Any) -> None:
    shared = _page(300, 200).splitlines()[5]
    assert sum(shared in d.text for d in chosen().kept) == 2
    corpus = chosen(repeated_passages=60)
    assert sum(shared in d.text for d in corpus.kept) == 1
    assert corpus.report["trimmed"]["passages"]["count"] == 1


def test_the_same_meaning_in_other_order(chosen: Any) -> None:
    corpus = chosen(semantic_duplicates=0.5, quality=False)
    strict = chosen(semantic_duplicates=0.999, quality=False)
    assert len(corpus.kept) <= len(strict.kept)
    assert corpus.report["duplicates"]["semantic"] == len(corpus.reasons().get("duplicate:semantic", []))


def test_topics_of_the_prose(chosen: Any) -> None:
    topics = chosen(topics=3).report["topics"]
    assert len(topics) == 3 and sum(topic["documents"] for topic in topics) > 20
    assert chosen(topics=0).report["topics"] == []


def test_licences(chosen: Any) -> None:
    with pytest.raises(UserError, match=r"nothing is left .* licence:MIT"):
        chosen(licences={"deny": ["permissive"]})
    assert chosen(licences={"allow": ["MIT"]}).kept


def test_confidence_of_the_language(chosen: Any) -> None:
    assert "language:unsure" not in chosen().reasons()
    assert chosen(confidence={"zh": 0.95}).reasons()["language:unsure"] == ["rows.jsonl:41"]
    assert chosen(confidence="auto").reasons()["language:unsure"] == ["rows.jsonl:41"]  # all others are sure
    with pytest.raises(ValidationError):
        chosen(confidence={"zh": 1.01})


@pytest.mark.parametrize(
    "config",
    [
        {"safety": {"hats": 1}},
        {"safety": {"hate": -1}},
        {"confidence": "car"},
        {"repeated_passages": 2},
        {"topics": -1},
    ],
)
def test_impossible_configs_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SelectConfig(**config)


def test_a_corpus_is_not_a_measured_one(chosen: Any, tmp_path: Path) -> None:
    done = chosen()
    with pytest.raises(UserError, match="not a measured corpus"):
        select(SelectConfig(), StageRun.for_test(tmp_path / "again"), Artifact.from_path(done.path, "corpus"))


def test_a_document_knows_how_many_copies_it_stands_for(tmp_path: Path) -> None:
    files = {f"p{i}.txt": _page(i) for i in range(6)} | {f"copy{i}.txt": _page(2) for i in range(3)}
    run = StageRun.for_test(tmp_path / "run")
    prepare(PrepareConfig(source=_folder(tmp_path / "in", files)), run)
    copies = [d.meta.get("copies", 1) for d in Corpus(run.out, {}).kept]
    assert sorted(copies) == [1, 1, 1, 1, 1, 4]


def test_items_of_benchmarks_leave_the_corpus(tmp_path: Path) -> None:
    items = [{"id": i, "question": _page(500 + i, 60), "answer": _page(600 + i, 30)} for i in range(3)]
    exam = tmp_path / "exam.jsonl"
    exam.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), "utf-8")
    planted = _page(1) + items[1]["question"] + items[1]["answer"] + _page(2)
    source = _folder(tmp_path / "in", {**{f"p{i}.txt": _page(10 + i) for i in range(6)}, "leak.txt": planted})
    run = StageRun.for_test(tmp_path / "run")
    prepare(PrepareConfig(source=source, benchmarks=[f"exam={exam}"]), run)
    corpus = Corpus(run.out, {})
    assert corpus.reasons() == {"contamination:exam": ["leak.txt"]}
    (hit, *_) = corpus.report["contamination"]["listed"]
    assert hit["benchmark"] == "exam" and "1" in str(hit["item"])
