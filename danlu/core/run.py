"""The runner: build what is out of date, and nothing else.

For each stage in order

    cached?  -> take the artifact from the store
    lock     -> nobody else builds the same id
    build    -> the stage writes into a temporary directory, its checkpoints into work/<id>
    publish  -> hash the payload, write the manifest, rename, remember the name, drop the scratch

There is no state besides these directories, so a process killed between any two of these lines is resumed by
running the same command again.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import platform
import shutil
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from danlu.core.artifact import Artifact, Manifest, describe_files
from danlu.core.device import cpu_name
from danlu.core.errors import DanluError, Interrupted, StageFailed, UserError
from danlu.core.events import Events, finite
from danlu.core.plan import Step, plan
from danlu.core.recipe import Recipe, build_recipe
from danlu.core.stage import StageRun, get_stage
from danlu.core.store import Store, check_name, explain_disk_errors

RESUME = "the same command, run again, goes on from here"
_RUNS = itertools.count(1)  # runs of this process, so that two in one second have two logs


@dataclass(frozen=True)
class Result:
    """What a run made: the artifact of every stage, where its events are, and why a stage that may fail did."""

    artifacts: dict[str, Artifact]
    events: Path
    failed: dict[str, str]


def run_recipe(recipe: Recipe, store: Store, only: Iterable[str] | None = None, events: Events | None = None) -> Result:
    """Build every stage of the recipe that is out of date (with `only`: those stages and what they need).

    A stage with `may_fail` that cannot be built is left out, with those that may fail and need it.

    Raises UserError for wrong input, StageFailed when a stage fails, Interrupted when the user stops it.
    """
    targets = list(only or ())
    if targets:
        recipe = replace(recipe, nodes={name: recipe.nodes[name] for name in recipe.needed_for(targets)})
    events = events or new_run_log(store, recipe.name)
    artifacts: dict[str, Artifact] = {}
    failed: dict[str, str] = {}
    with contextlib.ExitStack() as in_use:
        while len(artifacts) < len(recipe.nodes):
            steps = [step for step in plan(recipe, store) if step.node.name not in artifacts]
            in_use.enter_context(store.using(needed_ids(steps)))
            for step in steps:
                name = step.node.name
                log = events.bind(stage=name)
                try:
                    artifacts[name] = artifact = run_step(step, store, log, artifacts)
                except (UserError, StageFailed) as error:
                    left = recipe.without(name, error.message) if step.node.may_fail else recipe
                    if any(one not in left.nodes for one in targets) or left is recipe:
                        raise
                    failed |= {one: f'needs "{name}"' for one in recipe.nodes if one not in left.nodes}
                    failed[name], recipe = error.message, left
                    log.emit("warning", message=f"left out: {error}")
                    break  # what is left has other ids
                for label in (name, f"{recipe.name}.{name}"):
                    if store.names().get(label, {}).get("") != artifact.id:
                        store.set_name(label, artifact.id)
    assert events.path is not None
    return Result(artifacts, events.path, failed)


def new_run_log(store: Store, name: str) -> Events:
    """A fresh event log under STORE/runs; it comes into being with its first event."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return Events(store.root / "runs" / f"{stamp}-{name}-{os.getpid()}-{next(_RUNS)}" / "events.jsonl")


def run_stage(
    name: str, values: dict[str, Any], store: Store, events: Events | None = None, save_as: str = ""
) -> Artifact:
    """Run one stage without a recipe; `values` holds config and inputs as a recipe would write them."""
    stage = get_stage(name)
    save_as = save_as or name.rpartition(".")[2].rpartition(":")[2]
    check_name(save_as)
    label = save_as.partition("@")[0]
    recipe = build_recipe({"name": "stage", "stages": {label: {"use": name, **values}}}, {(): stage.name})
    steps = plan(recipe, store)
    log = (events or new_run_log(store, label)).bind(stage=label)
    with store.using(needed_ids(steps)):
        artifact = run_step(steps[0], store, log, {})
        store.set_name(save_as, artifact.id)
    return artifact


def needed_ids(steps: Iterable[Step]) -> set[str]:
    """What a run of these steps makes or reads."""
    return {i for step in steps for i in (step.id, *step.parents.values())}


def run_step(step: Step, store: Store, log: Events, built: dict[str, Artifact]) -> Artifact:
    """Take one stage's artifact from the store or build it."""
    inputs: dict[str, Any] = dict.fromkeys(step.node.stage.optional)
    for role, spec in step.node.inputs.items():
        artifact = step.external[role] if role in step.external else built[spec[1:]]
        group, _, name = role.partition(".")
        if name:  # one of several
            inputs.setdefault(group, {})[name] = artifact
        else:
            inputs[role] = artifact
    with explain_disk_errors(store.root):
        cached = store.get(step.id)
        if cached is None:
            with store.lock(step.id):
                cached = store.get(step.id)  # another process may have finished it a moment ago
                if cached is None:
                    with _terminated_is_interrupted():
                        return _build(step, store, log, inputs)
        log.emit("cached", id=step.id)
        return cached


def _build(step: Step, store: Store, log: Events, inputs: dict[str, Any]) -> Artifact:
    work = store.work(step.id)
    work.mkdir(parents=True, exist_ok=True)
    log.emit("started", id=step.id, use=step.node.stage.name, config=step.config, parents=step.parents)
    begin = time.time()
    try:
        with store.new_directory(step.id) as out:
            metrics = step.node.stage.function(config=step.node.config, run=StageRun(out, work, log), **inputs)
            manifest = _manifest(step, out, metrics, time.time() - begin)
            artifact = store.publish(out, manifest)
    except KeyboardInterrupt:
        _last_word(log, "interrupted", seconds=round(time.time() - begin, 3))
        raise Interrupted(f'stopped in stage "{step.node.name}"', RESUME) from None
    except Interrupted as error:
        _last_word(log, "interrupted", seconds=round(time.time() - begin, 3), message=error.message)
        raise Interrupted(error.message, error.hint or RESUME) from None
    except DanluError as error:
        _last_word(log, "failed", message=str(error))
        raise
    except MemoryError:
        _last_word(log, "failed", message="out of memory")
        raise StageFailed(
            f'stage "{step.node.name}" ran out of memory', "make the model, batch or corpus smaller"
        ) from None
    except Exception as error:
        _last_word(log, "failed", message=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
        raise
    shutil.rmtree(work, ignore_errors=True)
    log.emit("finished", id=artifact.id, seconds=round(manifest.seconds, 3), size=manifest.size, metrics=metrics)
    return artifact


def _manifest(step: Step, out: Path, metrics: dict[str, Any], seconds: float) -> Manifest:
    files = describe_files(out)
    if not files:
        raise StageFailed(f'stage "{step.node.name}" wrote nothing')
    return Manifest(
        kind=step.node.stage.makes,
        id=step.id,
        stage=step.node.stage.name,
        stage_version=step.node.stage.version,
        config=step.config,
        parents=step.parents,
        files=files,
        metrics=finite(metrics),
        name=step.node.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        seconds=round(seconds, 3),
        danlu=danlu_version(),
        revision=git_revision(),
        machine=machine_name(),
    )


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """Let SIGTERM end a stage as Ctrl-C does; a stage with a `graceful` block handles both itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_word(log: Events, event: str, **fields: Any) -> None:
    """Log how a stage ended. A disk too full for this line must not hide the reason itself."""
    with contextlib.suppress(OSError):
        log.emit(event, **fields)


@lru_cache(maxsize=1)
def danlu_version() -> str:
    """The installed version of danlu."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("danlu")
    except PackageNotFoundError:
        return "unknown"


@lru_cache(maxsize=1)
def git_revision() -> str:
    """The commit of the checkout this code runs from, with "+" when it has changes; empty outside one."""
    here = Path(__file__).resolve().parent
    try:
        call = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@lru_cache(maxsize=1)
def machine_name() -> str:
    """What the numbers were measured on: processor, cores, system. No host name: it says nothing to a reader."""
    return f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"
