"""Every canary of `canaries` through the whole data room, and each is where it must be."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from danlu.core.stage import StageRun
from danlu.core.workers import Workers
from danlu.data.document import read_parquet
from danlu.data.measured import SCORE
from danlu.data.prepare import PrepareConfig, prepare
from danlu.data.report import explain
from tests.data import canaries
from tests.data.canaries import Expected, write_corpus

COLUMNS = ("id", "text", "language", "source", "licence", "meta")


class Result:
    """The corpus that came out: rows by the path of their input, each with its `place` and `reason`."""

    def __init__(self, root: Path, workers: int) -> None:
        self.planted = write_corpus(root / "in")
        run = StageRun.for_test(root / "run")
        run.workers = Workers(workers)
        self.metrics = prepare(PrepareConfig(source=self.planted.sources, validation_share=0.1), run)
        self.path = run.out
        self.report: dict[str, Any] = json.loads((run.out / "report.json").read_text("utf-8"))
        self.rows: list[dict[str, Any]] = []
        for split in ("train", "validation", "rejected"):
            columns = (*COLUMNS, "reason", "detail") if split == "rejected" else COLUMNS
            for row in read_parquet(run.out, split, columns):
                self.rows.append({"reason": "", **row, "split": split, "path": json.loads(row["meta"])["path"]})
        self.by_path: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows:
            self.by_path[row["path"]].append(row)

    def of(self, expected: Expected) -> list[dict[str, Any]]:
        """The rows of an input: one, or (damaged files) one for each part that was lost."""
        if expected.reason != "*":
            return self.by_path[expected.place]
        return [row for path, rows in self.by_path.items() for row in rows if _file(path) == expected.place]

    @property
    def kept(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["split"] != "rejected"]


def _file(path: str) -> str:
    return re.split("[#:@!]", path)[0]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    pytest.importorskip("trafilatura")
    pytest.importorskip("fastwarc")
    return Result(tmp_path_factory.mktemp("canaries"), workers=1)


def test_every_input_is_found_again_once_and_nothing_else(result: Result) -> None:
    known = {expected.place for expected in result.planted.expected}
    assert len(known) == len(result.planted.expected) > 300
    for expected in result.planted.expected:
        found = result.of(expected)
        assert len(found) == 1 or (expected.reason == "*" and found), expected
    assert [path for path in result.by_path if path not in known and _file(path) not in known] == []
    assert len({row["id"] for row in result.rows}) == len(result.rows)


def test_what_must_go_is_gone_with_the_right_reason(result: Result) -> None:
    for expected in result.planted.expected:
        if expected.reason and not expected.family:
            allowed = ("",) if expected.reason == "*" else tuple(expected.reason.split("|"))
            for row in result.of(expected):
                assert row["split"] == "rejected" and row["reason"].startswith(allowed), (expected, row)


def test_what_must_stay_is_there_and_as_it_must_be(result: Result) -> None:
    for expected in result.planted.expected:
        if expected.reason or expected.clean:
            continue
        (row,) = result.of(expected)
        assert row["split"] != "rejected", (expected.place, row["reason"], row["detail"])
        assert expected.text in ("", row["text"]) and expected.holds in row["text"], (expected.place, row["text"])
        assert [gone for gone in expected.gone if gone in row["text"]] == [], expected.place


def test_clean_texts_survive_untouched(result: Result) -> None:
    """99 of 100 at least; today it is all of them. By kind, so that one kind cannot hide behind the others."""
    clean = [expected for expected in result.planted.expected if expected.clean]
    untouched = {e.place for e in clean if (row := result.of(e)[0])["split"] != "rejected" and row["text"] == e.text}
    assert len(clean) > 150 and len(untouched) >= 0.99 * len(clean), {e.place for e in clean} - untouched
    for kind in canaries.CLEAN:
        mine = [e for e in clean if kind in e.place]
        assert sum(e.place in untouched for e in mine) >= len(mine) - 1, kind


def test_of_each_family_one_is_kept_and_the_others_name_it(result: Result) -> None:
    families: dict[str, list[tuple[Expected, dict[str, Any]]]] = defaultdict(list)
    for expected in result.planted.expected:
        if expected.family:
            families[expected.family].append((expected, result.of(expected)[0]))
    assert len(families) > 8
    for name, members in families.items():
        (kept,) = (row for _, row in members if row["split"] != "rejected")
        for expected, row in members:
            if row is not kept:
                assert row["reason"] in expected.reason.split("|"), (name, row["reason"])
                assert json.loads(row["meta"])["duplicate_of"] in {r["id"] for _, r in members}
    dropped = Counter(row["reason"] for row in result.rows)
    assert dropped["duplicate:exact"] >= 8 and dropped["duplicate:near"] >= 4 and dropped["duplicate:url"] == 1


def test_no_personal_data_is_left(result: Result) -> None:
    """Not in a text, not in what is said about it, not in the pages of the report."""
    assert {kind for kind, _ in result.planted.secrets} == {kind for kind, *_ in canaries.planted.VALID}
    pages = {path.name: path.read_text("utf-8") for path in result.path.iterdir() if path.suffix != ".parquet"}
    assert set(pages) == {"report.json", "report.html", "README.md"}
    for kind, whole in result.planted.secrets:
        for value in (whole, *re.findall(r"[A-Za-z0-9+/]{8,}", whole)):  # nor a large part of it
            for row in result.rows:
                assert value not in row["text"] and value not in row["meta"], (kind, value, row)
            for name, page in pages.items():
                assert value not in page, (kind, value, name)
    assert sum(result.report["personal"].values()) >= len(result.planted.secrets)


def test_no_order_and_no_marker_is_left(result: Result) -> None:
    for row in result.kept:
        assert not re.search(r"ignore all previous|忽略以上所有|<\|im_start\|>|\[INST\]|<<SYS>>", row["text"]), row[
            "path"
        ]


def test_the_report_counts_what_is_there(result: Result) -> None:
    report, rows = result.report, result.rows
    assert report["dropped"] == dict(Counter(row["reason"] for row in rows if row["split"] == "rejected"))
    for split in ("train", "validation"):
        mine = [row for row in rows if row["split"] == split]
        assert report["splits"][split] == {
            "documents": len(mine),
            "bytes": sum(len(row["text"].encode()) for row in mine),
        }
    assert report["kept"]["documents"] == len(result.kept) == result.metrics["documents"]
    for key, column in (("by_language", "language"), ("by_source", "source"), ("by_licence", "licence")):
        counted = Counter(row[column] for row in result.kept)
        assert {name: counts["documents"] for name, counts in report[key].items()} == counted
    assert report["in"]["files"] == sum(1 for source in result.planted.sources for _ in Path(source).iterdir())
    assert report["by_source"].keys() == {"web", "office"} and report["by_language"].keys() >= {
        "zh",
        "en",
        "code:python",
    }
    scores = list(read_parquet(result.path, "scores", ["id", "place", SCORE + "units"]))
    places = {row["id"]: row["reason"] or row["split"] for row in rows}
    assert {row["id"]: row["place"] for row in scores} == places and len(scores) == len(rows)


def test_why_tells_the_story_of_every_input(result: Result) -> None:
    for expected in result.planted.expected[::7]:
        for row in result.of(expected):
            (found,) = (
                answer for answer in explain(result.path, row["path"], limit=1000) if answer.path == row["path"]
            )
            assert (found.id, found.place, found.reason) == (row["id"], row["split"], row["reason"])
            assert row["path"] in found.sentence() and ("dropped" in found.sentence()) == bool(row["reason"])
            assert found.scores


def test_similar_texts_are_on_one_side_and_the_number_of_workers_changes_nothing(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danlu.data.measuring.walk.PIECE_BYTES", 20_000)
    other = Result(tmp_path, workers=2)
    by_id = {row["id"]: row for row in result.rows}
    assert {row["id"]: row for row in other.rows} == by_id
