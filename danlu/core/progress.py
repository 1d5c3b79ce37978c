"""The terminal view: a reader of the event log.

On a terminal it shows one live line for the stage in progress (done, speed, time left, loss) and leaves one line
for each stage that ended. Where standard error is no terminal (a file, CI) it writes plain lines, and a line of
progress only every few seconds, so that logs stay readable. Everything goes to standard error: standard output
belongs to results.
"""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from danlu.core.events import Event

PLAIN_SECONDS = 10.0  # between two progress lines where there is no terminal


class TerminalView:
    """Shows events on standard error. Use as a context manager around a run and pass it to `Events.subscribe`."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._begin = 0.0
        self._part: tuple[str, int | None] = ("", None)  # unit and total of what is being counted
        self._part_begin = self._last_progress = 0.0
        self._last_plain = 0.0

    def __enter__(self) -> TerminalView:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end_live()

    def __call__(self, event: Event) -> None:
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def _on_cached(self, event: Event) -> None:
        self._line("=", event["stage"], f"{event['id']}  is up to date", "dim")

    def _on_started(self, event: Event) -> None:
        self._begin = self._last_plain = self._last_progress = time.monotonic()
        self._part = ("", None)
        self._end_live()
        if not self.console.is_terminal:
            self._line("*", event["stage"], event["use"], "")
            return
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._progress.start()
        self._task = self._progress.add_task(event["stage"], total=None, status=event["use"])

    def _on_progress(self, event: Event) -> None:
        done, total, unit = event["done"], event.get("total"), event["unit"]
        status = f"{done:,}" + (f" of {total:,}" if total else "") + f" {unit}"
        if (unit, total) != self._part:  # a stage counts one thing after another: each began where the last one ended
            self._part, self._part_begin = (unit, total), self._last_progress
        self._last_progress = time.monotonic()
        if total and done:
            status += f"  {human_seconds((total - done) * (self._last_progress - self._part_begin) / done)} left"
        self._status(event["stage"], status, done, total)

    def _on_step(self, event: Event) -> None:
        parts = [f"step {event['step']}"]
        for key, form in (
            ("loss", "loss {:.3f}"),
            ("tokens_per_second", "{:,.0f} tokens/s"),
            ("share_of_peak", "{:.0%} of peak"),
        ):
            if isinstance(event.get(key), (int, float)):
                parts.append(form.format(event[key]))
        progress = event.get("progress")
        if isinstance(progress, float) and progress > 0.01:
            left = (time.monotonic() - self._begin) * (1 - progress) / progress
            parts.append(f"{human_seconds(left)} left")
        self._status(event["stage"], "  ".join(parts), progress or 0, 1.0 if progress else None)

    def _on_sample(self, event: Event) -> None:
        text = str(event.get("text", "")).replace("\n", "⏎ ")
        self._line("~", event["stage"], text[:100] + ("…" if len(text) > 100 else ""), "italic dim")

    def _on_derived(self, event: Event) -> None:
        self._line(" ", event["stage"], str(event["text"]), "dim")

    def _on_resumed(self, event: Event) -> None:
        self._line(" ", event["stage"], f"goes on after step {event['step']}", "dim")

    def _on_warning(self, event: Event) -> None:
        self._line("!", event.get("stage", ""), str(event["message"]), "yellow")

    def _on_finished(self, event: Event) -> None:
        self._end_live()
        text = f"{event['id']}  {event['seconds']:.1f}s  {human_bytes(event['size'])}"
        shown = [
            f"{k} {_number(v)}"
            for k, v in event.get("metrics", {}).items()
            if isinstance(v, (int, float, str)) and v != ""
        ]
        self._line("+", event["stage"], "  ".join([text, *shown[:5]]), "green")

    def _on_failed(self, event: Event) -> None:
        self._end_live()
        self._line("x", event.get("stage", ""), "failed", "red")

    def _on_interrupted(self, event: Event) -> None:
        self._end_live()
        self._line("-", event.get("stage", ""), "stopped", "yellow")

    def _status(self, stage: str, status: str, done: float, total: float | None) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, status=status)
        elif time.monotonic() - self._last_plain >= PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            self._line(" ", stage, status, "")

    def _line(self, mark: str, stage: str, text: str, style: str) -> None:
        self.console.print(Text(f"{mark} {stage:<14} {text}", style=style), soft_wrap=True)

    def _end_live(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None


def human_bytes(size: float) -> str:
    """A size as people write it.

    >>> human_bytes(1536)
    '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """A duration as people write it.

    >>> human_seconds(150)
    '2m30s'
    """
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
