"""The event log: one writer, many readers.

A run appends one JSON object a line to `events.jsonl`:

    {"t": 1760000000.123, "event": "step", "stage": "base", "step": 40, "loss": 4.21, "tokens_per_second": 5200.0}

The terminal view, web pages, exporters and metrics are readers of that file; nothing else reports progress.
Events: `started`, `progress`, `step`, `sample`, `warning`, `finished`, `failed`, `interrupted`, `cached`.

A line is written with one `write` to a file opened for appending, so lines of two processes do not mix, and a
process killed in the middle leaves at most one broken line at the end, which `read_events` passes over.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class Events:
    """Appends events to a file (or to none, with `path=None`) and hands each to the subscribed readers."""

    def __init__(self, path: Path | None = None, **common: Any) -> None:
        self.path = path
        self._common = common
        self._readers: list[Callable[[Event], None]] = []

    def subscribe(self, reader: Callable[[Event], None]) -> None:
        """Call `reader` with every event from now on, in this process and thread."""
        self._readers.append(reader)

    def bind(self, **common: Any) -> Events:
        """The same log with fields added to every event (`stage="base"`)."""
        bound = Events(self.path, **{**self._common, **common})
        bound._readers = self._readers
        return bound

    def emit(self, event: str, **fields: Any) -> None:
        """Write one event. Fields must be JSON; see `finite` for NaN."""
        record = {"t": round(time.time(), 3), "event": event, **self._common, **fields}
        record = finite(record)
        try:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(self.path, "ab", buffering=0) as handle:
                    handle.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        finally:  # a disk too full for the line does not keep it from the terminal
            for reader in self._readers:
                reader(record)


def read_events(path: Path) -> Iterator[Event]:
    """The events of a log in order; a line broken by a crash is passed over."""
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as handle:
        for line in handle:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def finite(value: Any) -> Any:
    """The same value with NaN and infinity as strings, at any depth, since JSON has neither.

    >>> finite({"loss": [1.0, float("nan")]})
    {'loss': [1.0, 'nan']}
    """
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
