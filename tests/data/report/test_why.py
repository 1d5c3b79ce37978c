"""The question "why was this dropped", asked of a small corpus in every way."""

from __future__ import annotations

from pathlib import Path

import pytest

from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.data.prepare import PrepareConfig, prepare
from danlu.data.report import explain
from tests.data.test_prepare import _folder, _page


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("why")
    pages = {f"p{i}.txt": _page(i) for i in range(6)}
    source = _folder(
        folder / "in", {**pages, "copy.txt": _page(3), "short.txt": '暂"无\n', "torn.txt": bytes(range(256))}
    )
    run = StageRun.for_test(folder / "run")
    prepare(PrepareConfig(source=source), run)
    return run.out


def test_a_path_a_text_and_an_id_find_the_same_document(corpus: Path) -> None:
    (by_path,) = explain(corpus, "short.txt")
    assert by_path.sentence().endswith("(short.txt) was dropped: quality:too_short (2 < 8)")
    assert explain(corpus, '暂"无') == explain(corpus, by_path.id) == [by_path]
    assert by_path.scores["units"] == 2


def test_a_duplicate_names_the_one_that_was_kept(corpus: Path) -> None:
    dropped, kept = explain(corpus, _page(3)[:20])
    assert dropped.reason == "duplicate:exact" and dropped.duplicate_of == kept.id
    assert kept.place in ("train", "validation") and "was kept" in kept.sentence()


def test_what_could_not_be_read(corpus: Path) -> None:
    (found,) = explain(corpus, "torn.txt")
    assert found.reason == "encoding" and found.detail


def test_no_match_no_query_no_corpus(corpus: Path, tmp_path: Path) -> None:
    assert explain(corpus, "nowhere.txt") == []
    assert len(explain(corpus, "p", limit=3)) == 3
    with pytest.raises(UserError, match="which document"):
        explain(corpus, " ")
    with pytest.raises(UserError, match="no corpus"):
        explain(tmp_path, "x")
