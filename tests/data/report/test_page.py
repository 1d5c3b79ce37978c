"""The page and the card of a corpus: they show what the report says, and nothing of the text can break them."""

from __future__ import annotations

import inspect
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from danlu.core.stage import StageRun
from danlu.data.prepare import PrepareConfig, prepare
from tests.data.test_prepare import _folder, _page

NASTY = "<script>alert(1)</script> & \"quoted\" 'single'\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    files: dict[str, str | bytes] = {f"p{i}.txt": _page(i) for i in range(6)}
    files |= {"<b>.txt": NASTY, "copy.txt": _page(3), "a.py": inspect.getsource(prepare)}
    run = StageRun.for_test(folder / "run")
    prepare(PrepareConfig(source=_folder(folder / "in", files), licence="CC0-1.0", clean={"html": False}), run)
    return run.out


class _Tags(HTMLParser):
    """Checks that tags nest, and remembers their names."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_safe(corpus: Path) -> None:
    text = (corpus / "report.html").read_text("utf-8")
    tags = _Tags()
    tags.feed(text)
    assert not tags.open and "script" not in tags.seen
    assert "http" not in text, "nothing is fetched"
    assert "&lt;script&gt;alert(1)" in text and "&lt;b&gt;.txt" in text


def test_the_page_says_what_the_report_says(corpus: Path) -> None:
    text = (corpus / "report.html").read_text("utf-8")
    report = json.loads((corpus / "report.json").read_text("utf-8"))
    for reason in report["dropped"]:
        assert f"<td>{reason}</td>" in text
    for words in ("语料报告", "Languages", "CC0-1.0", "code:python", "from "):
        assert words in text


def test_the_card_has_a_head_for_the_hub(corpus: Path) -> None:
    _, head, body = (corpus / "README.md").read_text("utf-8").split("---\n", 2)
    data = yaml.safe_load(head)
    assert data["language"] == ["zh"] and data["license"] == "cc0-1.0"
    assert data["configs"][0]["data_files"][0] == {"split": "train", "path": "train-*.parquet"}
    assert "duplicate:exact | 1" in body and "`danlu show CORPUS --why QUERY`" in body
