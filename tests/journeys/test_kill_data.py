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
from contextlib import suppress
from pathlib import Path

import pytest

from danlu.core.store import Store
from tests.data.canaries import chinese, english

ROOT = Path(__file__).parents[2]
KILLS = 3
MAIN = """
from danlu.data import rewriting
from danlu.data.measuring import walk
from danlu.cli.main import main
walk.PIECE_BYTES, rewriting.PIECE_BYTES = 20_000, 5_000
main()
"""
SOURCE, CORPUS = "source=SOURCE", "corpus=prepare"
BEFORE = {  # what each stage needs besides the source: stages that run undisturbed, with their settings
    "data.select": [("data.measure", SOURCE)],
    "data.score": [("data.prepare", SOURCE), ("data.train_perplexity", CORPUS)],
    "data.mix": [("data.prepare", SOURCE), ("data.augment", CORPUS)],
    **{f"data.{name}": [("data.prepare", SOURCE)] for name in ("decontaminate", "augment", "label")},
}
RULES = '[{"label": "one", "pattern": "river|水"}, {"label": "two", "pattern": "stone|山"}]'
SETTINGS = {
    "data.measure": [SOURCE],
    "data.prepare": [SOURCE],
    "data.select": ["corpus=measure"],
    "data.decontaminate": [CORPUS, "benchmarks=[exam=EXAM]"],
    "data.score": [CORPUS, "scorer=train_perplexity", "keep_to=5"],
    "data.mix": ["corpora.a=prepare", "corpora.b=augment", "max_epochs=2", "documents=900"],
    "data.augment": [CORPUS, "copies=2", "rate=0.2"],
    "data.label": [CORPUS, f"rules={RULES}"],
}


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
    above = tmp_path_factory.mktemp("source")
    folder = above / "in"
    folder.mkdir()
    texts = [(chinese, english)[i % 2](draw) for i in range(600)]
    texts += [draw.choice(texts).replace("，", "；", 1).replace(", ", "; ", 1) for _ in range(60)]
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts[:500])
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    for i, text in enumerate(texts[500:]):
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    exam = "".join(f'"{text}",x\n' for text in texts[:300:50])
    (above / "exam.csv").write_text("question,answer\n" + exam, encoding="utf-8")
    return above


def settings_of(stage: str, source: Path) -> list[str]:
    named = SETTINGS[stage]
    return [text.replace("SOURCE", str(source / "in")).replace("EXAM", str(source / "exam.csv")) for text in named]


def prepare_for(stage: str, store: Path, source: Path) -> None:
    store.mkdir()
    for before, setting in BEFORE.get(stage, ()):
        finish(store, before, setting.replace("SOURCE", str(source / "in")))


@pytest.mark.journey
@pytest.mark.parametrize("stage", SETTINGS)
def test_a_stage_survives_kill_9_at_any_moment(tmp_path: Path, source: Path, stage: str) -> None:
    draw = random.Random(stage)
    begin, undisturbed, battered = (tmp_path / name for name in ("begin", "undisturbed", "battered"))
    prepare_for(stage, begin, source)
    settings = settings_of(stage, source)
    for store in (undisturbed, battered):
        shutil.copytree(begin, store)
    seconds = finish(undisturbed, stage, *settings)
    kills = 0
    for _ in range(4 * KILLS):
        process = start(battered, stage, *settings)
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
    finish(battered, stage, *settings)
    assert made(battered) == made(undisturbed)
    assert not [path for path in (battered / "work").iterdir() if path.is_dir()]  # no scratch is left behind


@pytest.mark.journey
@pytest.mark.parametrize("stage", [stage for stage in SETTINGS if stage != "data.select"])
@pytest.mark.parametrize("blow", ["SIGINT", "SIGKILL"])
def test_what_is_done_is_not_done_again(tmp_path: Path, source: Path, stage: str, blow: str) -> None:
    prepare_for(stage, tmp_path / "begin", source)
    for store in ("s", "other"):
        shutil.copytree(tmp_path / "begin", tmp_path / store)
    settings = settings_of(stage, source)
    process = start(tmp_path / "s", stage, *settings)
    work = tmp_path / "s" / "work"
    while not (found := done_in(work)):
        assert process.poll() is None, process.stderr and process.stderr.read().decode()[-2000:]
        time.sleep(0.005)
    os.killpg(process.pid, signal.Signals[blow])  # SIGINT as a terminal sends it: the workers get it too
    _, errors = process.communicate(timeout=60)
    if blow == "SIGINT":
        said = errors.decode()
        assert process.returncode == 130, said[-2000:]
        assert "run again" in said or "the same command" in said
        assert "Traceback" not in said
    kept = done_in(work)
    assert kept.keys() >= found.keys()
    again = start(tmp_path / "s", stage, *settings)
    seen: dict[Path, int] = {}
    while again.poll() is None:
        seen |= done_in(work)
        time.sleep(0.005)
    assert again.returncode == 0, again.communicate()[1].decode()[-2000:]
    assert {path: seen[path] for path in kept} == kept  # the same files: nobody made them a second time
    finish(tmp_path / "other", stage, *settings)
    assert made(tmp_path / "s") == made(tmp_path / "other")


def done_in(work: Path) -> dict[Path, int]:
    """The folders of pieces that are complete, and which folder each is: one that is made again is another.

    Not when it was filled: a stage that has ended empties its folders before it removes them.
    """
    found: dict[Path, int] = {}
    with suppress(FileNotFoundError):  # it may end while we look; then this look saw a part of them
        for path in work.glob("*/*/0*"):
            found[path] = path.stat().st_ino
    return found
