"""kill -9 in the middle of every stage of the quickstart, and the artifacts are what they would have been.

The recipe runs with budgets in steps on a small part of its corpus. It is killed once in each stage, as soon as the
event log says that the stage is at work (in training: at the third step), and started again; what stands in the
store at the end must be, byte for byte, what an undisturbed run makes.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from danlu.core.events import read_events
from danlu.core.recipe import load_recipe
from danlu.core.store import Store

SMALL = {
    "corpus.max_documents": "60",
    "corpus.validation_share": "0.1",
    "tokenizer.vocab_size": "512",
    "base.batch_tokens": "1024",
    "base.context": "64",
    "base.checkpoint_every": "2 steps",
    "instructions.max_rows": "40",
    "chat.checkpoint_every": "2 steps",
    "chat.context": "128",
    "chat.batch_rows": "2",
    "chat.validation_rows": "4",
    "report.cases": "4",
    "report.max_bytes": "20000",
    "comparison.max_bytes": "20000",
    "comparison.tolerance": "1.0",
}
STAGES = list(load_recipe("quickstart").nodes)
TRAINING = ("base", "chat")


def command(store: Path) -> list[str]:
    settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    danlu = [sys.executable, "-m", "danlu.cli.main"]
    return [*danlu, "run", "quickstart", "--no-serve", "--budget", "20 steps", "--store", str(store), *settings]


def finish(store: Path) -> None:
    done = subprocess.run(command(store), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]


def kill_in(stage: str, store: Path) -> None:
    """Start the run and kill it, all its processes, once `stage` is at work."""
    process = subprocess.Popen(
        command(store), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    before = set((store / "runs").glob("*")) if (store / "runs").exists() else set()
    deadline = time.monotonic() + 900
    try:
        while time.monotonic() < deadline:
            assert process.poll() is None, process.stderr and process.stderr.read().decode()[-2000:]
            if any(at_work(stage, run / "events.jsonl") for run in set((store / "runs").glob("*")) - before):
                return
            time.sleep(0.005)
        raise AssertionError(f"stage {stage} never began")
    finally:
        subprocess.run(["kill", "-9", "--", f"-{process.pid}"], check=False, capture_output=True)
        process.communicate()


def at_work(stage: str, log: Path) -> bool:
    events = [event for event in read_events(log) if event.get("stage") == stage]
    if stage in TRAINING:
        return sum(event["event"] == "step" for event in events) >= 3  # a checkpoint was due after the second
    return any(event["event"] == "started" for event in events)


@pytest.mark.journey
def test_every_stage_survives_kill_9(tmp_path: Path) -> None:
    undisturbed, battered = tmp_path / "undisturbed", tmp_path / "battered"
    finish(undisturbed)
    for stage in STAGES:
        kill_in(stage, battered)
        made = {manifest.name for manifest in Store(battered).manifests()}
        assert stage not in made, f"{stage} was finished before it was killed"
    finish(battered)
    resumed = [
        e for log in (battered / "runs").glob("*/events.jsonl") for e in read_events(log) if e["event"] == "resumed"
    ]
    assert {event["stage"] for event in resumed} == set(TRAINING)
    expected = {m.name: (m.id, m.content) for m in Store(undisturbed).manifests()}
    assert {m.name: (m.id, m.content) for m in Store(battered).manifests()} == expected
    assert set(expected) == set(STAGES)
