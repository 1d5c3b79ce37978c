import io

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


def test_units_for_people() -> None:
    assert [human_bytes(n) for n in (5, 2048, 3 * 2**30)] == ["5 B", "2.0 KiB", "3.0 GiB"]
    assert [human_seconds(s) for s in (4.25, 150, 7260)] == ["4.2s", "2m30s", "2h01m"]
