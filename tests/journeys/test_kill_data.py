"""kill -9 at random moments of every stage that reads text, and Ctrl-C: the rerun makes what would have been made.

Each stage runs in its own process with two workers, on pieces small enough that there are thirty of them. It is killed
again and again at moments drawn from a seed, between its start and the time an undisturbed run takes: all its processes
at once, or the parent alone. What stands in the store at the end must be the undisturbed artifact, byte for byte.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from danlu.core.store import Store
from tests.data.canaries import chinese, english

ROOT = Path(__file__).parents[2]
KILLS = 3
MAIN = "from danlu.data.measuring import walk; walk.PIECE_BYTES = 20_000; from danlu.cli.main import main; main()"


def start(store: Path, stage: str, *sets: str) -> subprocess.Popen[bytes]:
    settings = [part for pair in sets for part in ("--set", pair)]
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, "stage", stage, "--store", str(store), *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "DANLU_WORKERS": "2", "PYTHONPATH": str(ROOT)},
    )


def finish(store: Path, stage: str, *sets: str) -> float:
    begin = time.monotonic()
    process = start(store, stage, *sets)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-2000:]
    return time.monotonic() - begin


def made(store: Path) -> dict[str, tuple[str, str]]:
    found = Store(store)
    assert found.damaged() == []
    return {manifest.stage: (manifest.id, manifest.content) for manifest in found.manifests()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a megabyte: rows, of which some are alike, and files."""
    draw = random.Random(9)
    folder = tmp_path_factory.mktemp("in")
    texts = [(chinese, english)[i % 2](draw) for i in range(600)]
    texts += [draw.choice(texts).replace("，", "；", 1).replace(", ", "; ", 1) for _ in range(60)]
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts[:500])
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    for i, text in enumerate(texts[500:]):
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.journey
@pytest.mark.parametrize("stage", ["data.measure", "data.select", "data.prepare"])
def test_a_stage_survives_kill_9_at_any_moment(tmp_path: Path, source: Path, stage: str) -> None:
    draw = random.Random(stage)
    begin, undisturbed, battered = (tmp_path / name for name in ("begin", "undisturbed", "battered"))
    begin.mkdir()
    settings = f"source={source}"
    if stage == "data.select":
        finish(begin, "data.measure", settings)
        settings = "corpus=measure"
    for store in (undisturbed, battered):
        shutil.copytree(begin, store)
    seconds = finish(undisturbed, stage, settings)
    kills = 0
    for _ in range(4 * KILLS):
        process = start(battered, stage, settings)
        try:
            process.wait(draw.uniform(0.2, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL) if kills % 2 else os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        finally:
            process.communicate()
        if stage in made(battered):  # it was faster than the blow: once more from the beginning
            shutil.rmtree(battered)
            shutil.copytree(begin, battered)
        elif kills >= KILLS:
            break
    assert kills >= KILLS
    finish(battered, stage, settings)
    assert made(battered) == made(undisturbed)
    assert not [path for path in (battered / "work").iterdir() if path.is_dir()]  # no scratch is left behind


@pytest.mark.journey
@pytest.mark.parametrize("stage", ["data.measure", "data.prepare"])
def test_ctrl_c_says_how_to_go_on(tmp_path: Path, source: Path, stage: str) -> None:
    process = start(tmp_path / "s", stage, f"source={source}")
    work = tmp_path / "s" / "work"
    while not list(work.glob("*/pieces/0*")):
        assert process.poll() is None, process.stderr and process.stderr.read().decode()[-2000:]
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, errors = process.communicate(timeout=60)
    said = errors.decode()
    assert process.returncode == 130, said[-2000:]
    assert "run again" in said or "the same command" in said
    assert "Traceback" not in said
    kept = {path: path.stat().st_mtime_ns for path in work.glob("*/pieces/0*/measured.parquet")}
    assert kept
    finish(tmp_path / "s", stage, f"source={source}")
    finish(tmp_path / "other", stage, f"source={source}")
    assert made(tmp_path / "s") == made(tmp_path / "other")
