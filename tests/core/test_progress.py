import io

import pytest
from rich.console import Console

from danlu.core.events import Events
from danlu.core.progress import TerminalView, human_bytes, human_seconds


def show(terminal: bool) -> str:
    out = io.StringIO()
    events = Events().bind(stage="base")
    with TerminalView(Console(file=out, force_terminal=terminal, width=160)) as view:
        events.subscribe(view)
        events.emit("started", use="train.pretrain")
        events.emit("progress", done=5, total=10, unit="files")
        events.emit("step", step=3, loss=2.5, tokens_per_second=5200.0, share_of_peak=0.61, progress=0.5)
        events.emit("sample", text="def f():\n    return 1")
        events.emit("warning", message="careful")
        events.emit("finished", id="model-1", seconds=2.0, size=2048, metrics={"loss": 2.5})
    return out.getvalue()


def test_a_log_file_gets_plain_lines() -> None:
    text = show(terminal=False)
    assert "\x1b" not in text
    assert [line[0] for line in text.splitlines()] == ["*", "~", "!", "+"]
    assert "model-1  2.0s  2.0 KiB  loss 2.5" in text


def test_a_terminal_gets_a_live_line() -> None:
    text = show(terminal=True)
    assert "61% of peak" in text and "loss 2.500" in text and "model-1" in text


def test_the_time_that_is_left_is_of_what_is_being_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    out, clock = io.StringIO(), iter(range(0, 10_000, 30))
    monkeypatch.setattr("danlu.core.progress.time.monotonic", lambda: float(next(clock)))
    events = Events().bind(stage="lab")
    with TerminalView(Console(file=out, width=160)) as view:
        monkeypatch.setattr(view, "_status", lambda stage, status, done, total: out.write(status + "\n"))
        events.subscribe(view)
        events.emit("started", use="evaluate.lab")  # the clock says 0
        events.emit("progress", done=1, total=2, unit="models")  # 30
        events.emit("progress", done=2, total=2, unit="models")  # 60
        events.emit("progress", done=1, total=11, unit="timings")  # 90: one took 30 s, ten are to come
    assert [line.rpartition("  ")[2] for line in out.getvalue().splitlines()[1:]] == [
        "30.0s left",
        "0.0s left",
        "5m00s left",
    ]


def test_units_for_people() -> None:
    assert [human_bytes(n) for n in (5, 2048, 3 * 2**30)] == ["5 B", "2.0 KiB", "3.0 GiB"]
    assert [human_seconds(s) for s in (4.25, 150, 7260)] == ["4.2s", "2m30s", "2h01m"]
