"""Toy stages: small enough to know every byte of what they make."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from danlu.core.artifact import Artifact, atomic_write, write_json
from danlu.core.budget import Budget
from danlu.core.errors import Interrupted, UserError
from danlu.core.stage import Estimate, StageConfig, StageRun, stage


class SourceConfig(StageConfig):
    path: str = ""
    lines: int = 3


def _fingerprint(config: SourceConfig) -> str:
    return Path(config.path).read_text(encoding="utf-8") if config.path else ""


@stage("toys.source", makes="corpus", fingerprint=_fingerprint, estimate=lambda c, p: Estimate(disk_bytes=c.lines * 2))
def source(config: SourceConfig, run: StageRun) -> dict[str, Any]:
    """Write numbered lines."""
    (run.out / "text.txt").write_text("\n".join(str(i) for i in range(config.lines)), encoding="utf-8")
    return {"lines": config.lines}


class CountConfig(StageConfig):
    steps: int = 5
    budget: Budget | None = None
    pause: float = 0.0
    fail_at: int | None = None


@stage("toys.count", makes="report", takes={"corpus": "corpus", "extra?": "report"})
def count(config: CountConfig, run: StageRun, corpus: Artifact, extra: Artifact | None) -> dict[str, Any]:
    """Count slowly, remembering every step in the scratch directory."""
    place = run.work / "step"
    done = int(place.read_text()) if place.exists() else 0
    resumed = done
    with run.graceful():
        while done < config.steps:
            time.sleep(config.pause)
            done += 1
            if done == config.fail_at:
                raise ValueError("the toy broke")
            atomic_write(place, str(done).encode())
            run.events.emit("step", step=done, loss=1.0 / done)
            if run.stop_requested:
                raise Interrupted(f"stopped at step {done}")
    lines = (corpus.path / "text.txt").read_text().count("\n") + 1
    write_json(run.out / "report.json", {"steps": done, "lines": lines})
    (run.out / "deep").mkdir()
    (run.out / "deep" / "bytes.bin").write_bytes(bytes(range(256)))
    return {"steps": done, "resumed_from": resumed}


@stage("toys.modelling", makes="model")
def modelling(config: SourceConfig, run: StageRun) -> dict[str, Any]:
    """Write something that stands for a model."""
    (run.out / "config.json").write_text("{}")
    return {}


class FillConfig(StageConfig):
    size: int
    how: str = "python"


@stage("toys.fill", makes="report", takes={"corpus": "corpus"})
def fill(config: FillConfig, run: StageRun, corpus: Artifact) -> dict[str, Any]:
    """Write `size` bytes, as Python or as safetensors does."""
    if config.how == "python":
        (run.out / "bytes.bin").write_bytes(bytes(config.size))
    else:
        import numpy
        from safetensors.numpy import save_file

        save_file({"x": numpy.zeros(config.size, numpy.uint8)}, run.out / "x.safetensors")
    return {}


class EmptyConfig(StageConfig):
    pass


@stage("toys.empty", makes="report")
def empty(config: EmptyConfig, run: StageRun) -> dict[str, Any]:
    """Write nothing."""
    return {}


@stage("toys.join", makes="report", takes={"corpora*": "corpus"})
def join(config: EmptyConfig, run: StageRun, corpora: dict[str, Artifact]) -> dict[str, Any]:
    """Say which artifact came under which name."""
    write_json(run.out / "report.json", {name: artifact.id for name, artifact in corpora.items()})
    return {"names": list(corpora)}


@stage("toys.refuse", makes="corpus", takes={"corpus?": "corpus"})
def refuse(config: EmptyConfig, run: StageRun, corpus: Artifact | None) -> dict[str, Any]:
    """Nothing suits it."""
    raise UserError("this does not suit me", "give another")
