"""The adapters that an engine serves beside its model, by name.

    load     read and checked (model/adapter.py), then laid out by the runner      any thread, beside running steps
    find     a request says a name and gets a `LoadedAdapter`                      at submit, once
    unload   the name is gone at once; requests that have it finish with it

Nobody counts who uses an adapter. A request holds its `LoadedAdapter`, and the runner keeps the weights under a weak
reference to it: with the last request that has it they are freed. So `unload` never waits and never refuses, and a
name can be loaded again, with other weights, while the old ones still answer.

What was computed under an adapter is no prefix for anybody else, though the tokens be the same. Its blocks in the cache
hang on a beginning of their own, which no other adapter has ever had (`Sequence.root`).
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from danlu.core.artifact import artifact_id_of
from danlu.core.errors import UserError, expect
from danlu.kernels.decoder import KernelError
from danlu.model.adapter import load_adapter

if TYPE_CHECKING:
    from danlu.engine.compiled import CompiledRunner
    from danlu.engine.parallel import ParallelRunner
    from danlu.engine.runner import Runner
    from danlu.model.config import ModelConfig


@dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """What a request holds of its adapter. `number` counts from 1 and is never used twice."""

    name: str
    number: int
    artifact_id: str | None  # where it lies in a store


class Adapters:
    """Names, and what they stand for now."""

    def __init__(self, config: ModelConfig, runner: Runner | CompiledRunner | ParallelRunner) -> None:
        self._config, self._runner = config, runner
        self._loaded: dict[str, LoadedAdapter] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # two that load one name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._loaded)

    def get(self, name: str) -> LoadedAdapter | None:
        return self._loaded.get(name)

    def load(self, name: str, source: str | Path) -> None:
        expect("the name of an adapter", name, str, "text")
        if not name:
            raise UserError("an adapter needs a name")
        with self._lock:
            if name in self._loaded:
                raise UserError(f'there is an adapter "{name}" already', "unload it first, or choose another name")
            adapter = load_adapter(source, self._config)
            loaded = LoadedAdapter(name, next(self._numbers), artifact_id_of(source))
            try:
                self._runner.add_adapter(loaded, adapter)
            except KernelError as error:
                raise UserError(f'the adapter "{name}" cannot be loaded: {error}') from None
            self._loaded[name] = loaded

    def unload(self, name: str) -> None:
        with self._lock:
            self.find(name)
            del self._loaded[name]

    def find(self, name: str) -> LoadedAdapter:
        """Raises UserError, with the names there are, for one that is not there."""
        expect("an adapter", name, str, "the name of a loaded one")
        found = self._loaded.get(name)
        if found is None:
            known = "loaded: " + ", ".join(self._loaded) if self._loaded else "this engine has no adapters"
            raise UserError(f'there is no adapter "{name}"', known)
        return found
