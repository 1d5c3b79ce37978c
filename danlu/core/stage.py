"""Stages: plain functions from artifacts to an artifact.

    class PackConfig(StageConfig):
        tokens_per_shard: int = 100_000_000

    @stage("tokenizer.pack", makes="tokens", takes={"corpus": "corpus", "tokenizer": "tokenizer"})
    def pack(config: PackConfig, run: StageRun, corpus: Artifact, tokenizer: Artifact) -> dict[str, Any]:
        ...write files into run.out...
        return {"tokens": 12345}                       # metrics

The decorator only files the function under its name; calling it stays an ordinary call, so a test needs neither
a store nor a recipe. The name says where the code is: `tokenizer.pack` is the function in
`danlu/tokenizer/pack.py`, and a room lists its stages in `STAGES` of its `__init__`, so that a stage is found
without importing every room. A stage of somebody else's package is `use: package.module:function`.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import BaseModel, ConfigDict

from danlu.core.artifact import Artifact, Manifest
from danlu.core.errors import Interrupted, UserError, suggest
from danlu.core.events import Events
from danlu.core.workers import Workers

ROOMS = ("data", "tokenizer", "model", "train", "engine", "posttrain", "compress", "evaluate")


class StageConfig(BaseModel):
    """Base of a stage's config: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Estimate:
    """What a stage expects to need; None where it cannot know."""

    seconds: float | None = None
    memory_bytes: float | None = None
    disk_bytes: float | None = None


@dataclass(frozen=True)
class Stage:
    """A registered stage. `takes` maps a role to the kinds it accepts.

    An `optional` role may be absent (None); one of `several` takes any number of artifacts by name, at least one.
    """

    name: str
    function: Callable[..., dict[str, Any]]
    config: type[StageConfig]
    makes: str
    takes: Mapping[str, tuple[str, ...]]
    optional: frozenset[str]
    several: frozenset[str]
    version: str
    fingerprint: Callable[[Any], Any] | None
    estimate: Callable[[Any, Mapping[str, Manifest | None]], Estimate] | None
    check: Callable[[Any, Mapping[str, Artifact]], None] | None

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").split("\n")[0]


_REGISTRY: dict[str, Stage] = {}


def stage(
    name: str,
    *,
    makes: str,
    takes: Mapping[str, str | tuple[str, ...]] | None = None,
    version: str = "1",
    fingerprint: Callable[[Any], Any] | None = None,
    estimate: Callable[[Any, Mapping[str, Manifest | None]], Estimate] | None = None,
    check: Callable[[Any, Mapping[str, Artifact]], None] | None = None,
) -> Callable[[Callable[..., dict[str, Any]]], Callable[..., dict[str, Any]]]:
    """Register a function as a stage; it is returned unchanged.

    `takes` maps a role to the kinds it accepts. A role that ends in "?" may be absent; one that ends in "*" takes
    several artifacts, and the function gets a dict of them by name, sorted by name.
    `makes` is the kind of its artifact. `version` is part of the artifact's id: raise it when the same config
    would give other bytes. `fingerprint(config)` returns JSON that stands for what the function reads from
    outside the store (source files), and is part of the id too. `estimate(config, parents)` feeds `danlu plan`.
    `check(config, inputs)` raises UserError before a recipe runs, when one of the inputs that are there already (by
    role: those that no stage of the recipe makes) would end the stage hours later.
    """

    def register(function: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        config = _config_of(function)
        roles = {role.rstrip("?*"): (kind,) if isinstance(kind, str) else kind for role, kind in (takes or {}).items()}
        clash = set(roles) & set(config.model_fields)
        assert not clash, f"{name}: {clash} are both inputs and config keys"
        optional, several = (frozenset(role[:-1] for role in (takes or {}) if role.endswith(mark)) for mark in "?*")
        _REGISTRY[name] = Stage(
            name, function, config, makes, roles, optional, several, version, fingerprint, estimate, check
        )
        return function

    return register


def _config_of(function: Callable[..., Any]) -> type[StageConfig]:
    """The class in `config: ...` of the signature; only that one annotation is evaluated, the rest may be for
    type checkers alone."""
    annotation = function.__annotations__["config"]
    config = eval(annotation, function.__globals__) if isinstance(annotation, str) else annotation
    assert issubclass(config, StageConfig), f"{function.__name__}: the first parameter must be config: a StageConfig"
    return config


def get_stage(name: str) -> Stage:
    """Find a stage by name, importing only the module that holds it.

    Raises UserError with the nearest name when there is none.
    """
    if ":" in name:
        return _foreign_stage(name)
    room, _, module = name.partition(".")
    if name not in _REGISTRY and room in ROOMS and module in importlib.import_module(f"danlu.{room}").STAGES:
        importlib.import_module(f"danlu.{name}")
    if name not in _REGISTRY:
        raise UserError(f'there is no stage "{name}"', suggest(name, stage_names()))
    return _REGISTRY[name]


def stage_names() -> list[str]:
    """Names of all stages of danlu's own rooms, plus those registered otherwise."""
    names = {f"{room}.{name}" for room in ROOMS for name in importlib.import_module(f"danlu.{room}").STAGES}
    return sorted(names | set(_REGISTRY))


def _foreign_stage(name: str) -> Stage:
    module_name, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f'the stage "{name}" cannot be imported ({error})', "use: package.module:function") from None
    for registered in _REGISTRY.values():
        if registered.function is function:
            return registered
    raise UserError(f'"{name}" is not a stage', "decorate the function with danlu.core.stage.stage")


class StageRun:
    """What a running stage is given besides config and inputs.

    out     empty directory for the payload; it becomes the artifact when the function returns
    work    scratch that outlives a killed process and is found again by the next try of the same artifact
    events  the event log, bound to the name of the stage
    workers who does work that can be cut into pieces: never part of the config, since it must not change a byte
    """

    def __init__(self, out: Path, work: Path, events: Events) -> None:
        self.out = out
        self.work = work
        self.events = events
        self.workers = Workers.default()
        self.stop_requested = False
        self._last_progress = 0.0

    @classmethod
    def for_test(cls, directory: Path) -> StageRun:
        """A run outside any store, for tests and notebooks: everything lies under `directory`."""
        for name in ("out", "work"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        return cls(directory / "out", directory / "work", Events(directory / "events.jsonl"))

    def progress(self, done: int, total: int | None, unit: str) -> None:
        """Report how far the stage is; at most five events a second reach the log, and the last one always."""
        now = time.monotonic()
        if now - self._last_progress >= 0.2 or done == total:
            self._last_progress = now
            self.events.emit("progress", done=done, total=total, unit=unit)

    def clear_work(self) -> None:
        """Forget what earlier tries left in `work`."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True, exist_ok=True)

    def stop_if_asked(self) -> None:
        """Raises Interrupted once the user wants to stop."""
        if self.stop_requested:
            raise Interrupted("stopped before the stage was complete", "run again: what is done is kept")

    @contextmanager
    def graceful(self) -> Iterator[None]:
        """Inside this block the first SIGINT or SIGTERM only sets `stop_requested`; the second one interrupts.

        A long loop looks at `stop_requested` between steps, saves to `work` and raises Interrupted.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def request_stop(signum: int, frame: FrameType | None) -> None:
            if self.stop_requested:
                raise KeyboardInterrupt
            self.stop_requested = True
            self.events.emit("warning", message="stopping after this step; press Ctrl-C again to stop at once")

        before = {s: signal.signal(s, request_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
