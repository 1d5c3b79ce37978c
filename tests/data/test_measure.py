"""Measuring in pieces: any number of workers, a killed run and a Ray cluster give the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from danlu.core.artifact import sha256_file
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.core.workers import Workers
from danlu.data.measure import MeasureConfig, measure
from danlu.data.measuring import walk as measuring
from danlu.data.sources.find import find_files
from danlu.data.sources.pieces import pieces
from tests.data.test_prepare import _folder, _page

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that is cut into about ten pieces."""
    monkeypatch.setattr(measuring, "PIECE_BYTES", 4_000)
    monkeypatch.setattr(measuring, "SMALL_PIECE_BYTES", 4_000)
    rows = "".join(json.dumps({"text": _page(100 + i)}, ensure_ascii=False) + "\n" for i in range(40))
    files: dict[str, str | bytes] = {f"p{i}.txt": _page(i, 700) for i in range(12)}
    return _folder(tmp_path / "in", {**files, "rows.jsonl": rows + "{broken\n", "torn.txt": bytes(range(256))})


def _measured(folder: Path, source: str, workers: Workers) -> dict[str, str]:
    run = StageRun.for_test(folder)
    run.workers = workers
    measure(MeasureConfig(source=source), run)
    return {path.name: sha256_file(path) for path in sorted(run.out.iterdir())}


def test_the_number_of_workers_changes_no_byte(tmp_path: Path, source: str) -> None:
    one = _measured(tmp_path / "one", source, Workers(1))
    assert len(one) > 4
    assert _measured(tmp_path / "three", source, Workers(3)) == one


def test_little_input_is_cut_finely_enough_for_workers_to_end_together(tmp_path: Path) -> None:
    lines = json.dumps({"text": "x" * 1_000}) + "\n"
    folder = _folder(tmp_path / "in", {"rows.jsonl": lines * 2_500, "small.txt": "a page"})
    size = measuring.piece_bytes(find_files(folder))
    assert size == measuring.SMALL_PIECE_BYTES
    assert len([piece for file in find_files(folder) for piece in pieces(file, size)]) >= 5


def test_every_text_is_there_with_its_numbers(tmp_path: Path, source: str) -> None:
    _measured(tmp_path / "run", source, Workers(1))
    rows = [row for file in sorted((tmp_path / "run/out").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert len(rows) == 12 + 41 + 1
    assert sorted(row["reason"] for row in rows if row["reason"]) == ["broken_line", "encoding"]
    good = [row for row in rows if not row["reason"]]
    assert all(row["size"] == len(row["text"].encode()) and row["signature"] is not None for row in good)
    assert all(0 <= row["draw"] < 1 and row["origin"] == row["id"] and row["part"] == 0 for row in good)
    report = json.loads((tmp_path / "run/out/report.json").read_text("utf-8"))
    assert report["in"]["texts"] == 52 and report["in"]["files"] == 14


def test_a_ray_cluster_changes_no_byte(tmp_path: Path, source: str) -> None:
    pytest.importorskip("ray")
    one = _measured(tmp_path / "one", source, Workers(1))
    assert _measured(tmp_path / "ray", source, Workers(ray="local")) == one


def test_a_killed_run_goes_on_with_the_pieces_that_are_missing(tmp_path: Path) -> None:
    source = _folder(tmp_path / "in", {f"p{i}.txt": _page(i, 3_000) for i in range(60)})
    script = f"""
from pathlib import Path
from danlu.core.stage import StageRun
from danlu.core.workers import Workers
from danlu.data import measure
from danlu.data.measuring import walk
walk.PIECE_BYTES = walk.SMALL_PIECE_BYTES = 20_000
run = StageRun.for_test(Path({str(tmp_path / "run")!r}))
run.workers = Workers(2)
measure.measure(measure.MeasureConfig(source={source!r}), run)
"""
    first = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    pieces = tmp_path / "run" / "work" / "pieces"
    while len(list(pieces.glob("0*"))) < 3:
        assert first.poll() is None
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = {path: path.stat().st_mtime_ns for path in pieces.glob("0*/measured.parquet")}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was done was done again"
    undisturbed: dict[str, Any] = {}
    for name in ("run", "other"):
        if name == "other":
            subprocess.run([sys.executable, "-c", script.replace("/run'", "/other'")], cwd=ROOT, check=True)
        out = tmp_path / name / "out"
        undisturbed[name] = {path.name: sha256_file(path) for path in out.iterdir()}
    assert undisturbed["run"] == undisturbed["other"] and len(undisturbed["run"]) > 5


def test_another_plan_starts_anew(tmp_path: Path) -> None:
    source = _folder(tmp_path / "in", {"a.txt": _page(1), "b.txt": _page(2)})
    run = StageRun.for_test(tmp_path / "run")
    (run.work / "plan.json").write_text("[]")
    (run.work / "pieces" / "00000").mkdir(parents=True)  # empty: reading it would fail
    assert measure(MeasureConfig(source=source), run)["texts"] == 2


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file or folder"):
        measure(MeasureConfig(source=str(tmp_path / "none")), StageRun.for_test(tmp_path / "run"))
