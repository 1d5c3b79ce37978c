"""Folders made to break the data room: nothing crashes, nothing hangs, everything is kept or counted."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.data.measure import MeasureConfig, measure
from danlu.data.measuring import piece as pieces
from danlu.data.prepare import PrepareConfig, prepare
from danlu.data.split import cut
from tests.data.test_prepare import Corpus, Walk, _folder, _page, walk  # noqa: F401  (the fixture)

ROOT = Path(__file__).parents[2]


def test_names_that_are_no_utf_8_and_names_with_line_ends(tmp_path: Path, walk: Walk) -> None:  # noqa: F811
    folder = tmp_path / "in"
    names = [b"a\nb.txt", b"\xff\xfe.txt", b"\xff\xfd.txt", b"'\"`$(x).txt", "百 度.txt".encode(), b"..x.txt"]
    _folder(folder, {"plain.txt": _page(0)})
    for i, name in enumerate(names, start=1):
        with open(os.path.join(os.fsencode(folder), name), "wb") as out:
            out.write(_page(i).encode())
    with open(os.path.join(os.fsencode(folder), b"\xff.jsonl"), "wb") as out:
        out.write(b"{broken\n")
    corpus = walk(str(folder))
    paths = {document.meta["path"] for document in corpus.kept}
    assert paths == {"plain.txt", "a\nb.txt", "\\udcff\\udcfe.txt", "\\udcff\\udcfd.txt", "'\"`$(x).txt", "百 度.txt"}
    assert corpus.reasons() == {"broken_line": ["\\udcff.jsonl:1"]}  # and what begins with a dot is hidden


def test_halves_of_characters_and_zero_bytes_anywhere(tmp_path: Path, walk: Walk) -> None:  # noqa: F811
    def row(number: int, **more: Any) -> str:
        return json.dumps({"text": _page(number), **more})

    rows = [
        row(1, title="\udfff", url="http://a/\ud800", author="\ud800"),
        row(2, language="zh\ud800", licence="\ud800"),
        row(3, language="code:\n", id=float("nan")),
        row(4, language="code:" + "x" * 90, date="\0"),
        json.dumps({"text": _page(5) + "\ud800"}),
        json.dumps({"text": "\0" * 99 + _page(6)}),
        json.dumps({"\ud800": "x"}),
        json.dumps(["\ud800"]),
        '"\\ud800"',
    ]
    source = _folder(tmp_path / "in", {"a.jsonl": "\n".join(rows), "b.txt": _page(7), "c.txt": _page(8) + "\0"})
    corpus = walk(source)
    reasons = corpus.reasons()
    assert reasons.pop("no_text") == ["a.jsonl:7", "a.jsonl:8"] and reasons.pop("encoding") == ["c.txt"]
    assert sorted(path for paths in reasons.values() for path in paths) == ["a.jsonl:5", "a.jsonl:9"]
    assert {d.language for d in corpus.kept} == {"zh"} and len(corpus.kept) == 6
    for document in corpus.kept:
        json.loads(json.dumps(document.meta), parse_constant=pytest.fail)  # NaN is no JSON
        assert "\ud800" not in repr(document.meta).encode("utf-8").decode()
    raw = walk(source, clean={"characters": False}, quality=False)
    assert len(raw.kept) >= 6


def test_links_pipes_and_folders_without_end(tmp_path: Path, walk: Walk) -> None:  # noqa: F811
    folder = tmp_path / "in"
    source = _folder(folder, {"a.txt": _page(1), "b/c.txt": _page(2)})
    os.symlink(folder, folder / "b" / "up")
    os.symlink("two.txt", folder / "one.txt")
    os.symlink("one.txt", folder / "two.txt")
    os.symlink("nowhere.txt", folder / "dangling.txt")
    os.mkfifo(folder / "pipe.txt")
    os.mkfifo(folder / "LICENSE")
    assert {document.meta["path"] for document in walk(source).kept} == {"a.txt", "b/c.txt"}
    with pytest.raises(UserError, match="no file or folder"):
        walk(str(folder / "pipe.txt"))


def test_nesting_bombs_and_names_that_lead_outside(tmp_path: Path, walk: Walk) -> None:  # noqa: F811
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.txt", _page(1))
        archive.writestr("/evil.txt", _page(2))
        archive.writestr("zeros.txt", bytes(140 << 20))
        archive.writestr("good.txt", _page(3))
        archive.writestr("inner.zip", b"PK")
    deep = b"[" * 100_000
    files = {
        "a.zip": packed.getvalue(),
        "b.jsonl": deep + b"\n" + b'{"a":' * 50_000 + b"\n" + json.dumps({"text": _page(4)}).encode(),
        "c.json": deep + b"]" * 100_000,
        "d.ipynb": b'{"cells":' + deep,
        "e.jsonl.gz": gzip.compress(bytes(20 << 20), 1),
    }
    corpus = walk(_folder(tmp_path / "in", files))  # type: ignore[arg-type]
    assert {document.meta["path"] for document in corpus.kept} == {"a.zip!good.txt", "b.jsonl:3"}
    reasons = corpus.reasons()
    assert len(reasons["unsafe_path"]) == 2 and reasons["nested_archive"] == ["a.zip!inner.zip"]
    assert reasons["too_large"] == ["a.zip!zeros.txt"] and set(reasons["unreadable"]) == {"c.json", "d.ipynb"}
    assert {path.partition(":")[0] for path in reasons["broken_line"]} == {"b.jsonl", "e.jsonl.gz"}
    assert not list(tmp_path.rglob("evil.txt"))


def test_a_line_of_10_megabytes_costs_no_square(tmp_path: Path, walk: Walk) -> None:  # noqa: F811
    begin = time.process_time()
    corpus = walk(_folder(tmp_path / "in", {"a.txt": b"x" * (10 << 20), "b.txt": _page(1)}))
    assert len(corpus.rejected) == 105 and len(corpus.kept) == 1
    assert time.process_time() - begin < 10


@given(st.text(alphabet="abc 。，\n中1", max_size=500), st.integers(8, 60))
def test_a_cut_is_where_a_word_ends_if_there_is_one(text: str, limit: int) -> None:
    parts = cut(text, limit)
    assert "".join(parts) == text and all(0 < len(part) <= limit for part in parts)
    for before, after in pairwise(parts):
        inside = before[-1].isalnum() and after[0].isalnum()
        assert not (inside and any(mark in before[limit // 2 :] for mark in " 。，\n"))


def test_a_number_at_the_border_of_two_parts_is_found(tmp_path: Path, walk: Walk) -> None:  # noqa: F811
    for shift in range(0, 30, 3):
        text = (
            ("天地玄黄，宇宙洪荒，日月盈昃。" * 80)[: 990 + shift]
            + "电话：13800138000，手机也是。"
            + _page(shift).replace("\n", "")
        )
        corpus = walk(_folder(tmp_path / f"in-{shift}", {"a.txt": text}), max_document_chars=1_000, quality=False)
        assert "13800138000" not in "".join(document.text for document in corpus.kept)
        assert sum(document.text.count("<PHONE>") for document in corpus.kept) == 1


def test_many_equal_lines(tmp_path: Path, walk: Walk) -> None:  # noqa: F811
    rows = b'{"text": "hello"}\n' * 3_000 + (json.dumps({"text": _page(1)}) + "\n").encode() * 3_000
    corpus = walk(_folder(tmp_path / "in", {"a.jsonl": rows, "b.txt": b"hello world again\n" * 50_000}))
    assert len(corpus.kept) == 1 and corpus.report["dropped"]["duplicate:exact"] == 2_999
    assert corpus.report["dropped"]["quality:too_short"] >= 3_000


def test_a_file_that_grows_while_it_is_read_is_not_taken_for_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _folder(tmp_path / "in", {"a.jsonl": json.dumps({"text": _page(1)}) + "\n", "b.txt": _page(2)})
    original = pieces.measure_piece

    def growing(task: dict[str, Any], folder: Path) -> None:
        original(task, folder)
        with open(tmp_path / "in" / "a.jsonl", "a") as out:
            out.write("{}\n")

    monkeypatch.setattr(pieces, "measure_piece", growing)
    run = StageRun.for_test(tmp_path / "run")
    with pytest.raises(UserError, match=r'"a.jsonl" was changed while it was read'):
        measure(MeasureConfig(source=source), run)
    monkeypatch.setattr(pieces, "measure_piece", original)
    assert measure(MeasureConfig(source=source), StageRun.for_test(tmp_path / "run"))["texts"] == 2


def test_a_file_that_vanishes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _folder(tmp_path / "in", {"a.txt": _page(1), "b.txt": _page(2)})
    original = pieces.measure_piece

    def vanishing(task: dict[str, Any], folder: Path) -> None:
        (tmp_path / "in" / "b.txt").unlink()
        original(task, folder)

    monkeypatch.setattr(pieces, "measure_piece", vanishing)
    with pytest.raises(UserError, match=r'"b.txt" was changed'):
        measure(MeasureConfig(source=source), StageRun.for_test(tmp_path / "run"))


def test_what_may_not_be_read_is_counted_and_a_closed_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    source = _folder(folder, {"a.txt": _page(1), "b.txt": _page(2), "no.txt": _page(3), "dir/c.txt": _page(4)})
    os.chmod(folder / "no.txt", 0)
    strict = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    if os.geteuid() == 0 and (not shutil.which("setpriv") or subprocess.run([*strict, "true"]).returncode):
        pytest.skip("root may read everything")
    command = [*(strict if os.geteuid() == 0 else []), sys.executable, "-m", "danlu.cli.main", "stage", "data.prepare"]
    command += ["--set", f"source={source}", "--store", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "1 x unreadable" in done.stderr and "no.txt: Permission denied" in done.stderr
    (report,) = (tmp_path / "s").glob("corpus/*/report.json")
    assert str(tmp_path) not in report.read_text()
    os.chmod(folder / "dir", 0)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    os.chmod(folder / "dir", 0o755)
    assert done.returncode == 2 and 'dir" cannot be read' in done.stderr and "Traceback" not in done.stderr


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=60), min_size=1, max_size=6))
def test_any_texts(tmp_path: Path, texts: list[str]) -> None:
    """Whatever the texts are: as many documents as rows, and everything can be read back."""
    number = len(list(tmp_path.iterdir()))
    folder = tmp_path / f"in-{number}"
    rows = [json.dumps({"text": text, "title": text[:9]}) for text in [*texts, _page(1)]]
    run = StageRun.for_test(tmp_path / f"run-{number}")
    metrics = prepare(PrepareConfig(source=_folder(folder, {"a.jsonl": "\n".join(rows)}), topics=0), run)
    corpus = Corpus(run.out, metrics)
    assert len(corpus.kept) + len(corpus.rejected) == len(rows)
