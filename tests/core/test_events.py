import json
from pathlib import Path

from danlu.core.events import Events, read_events


def test_one_writer_many_readers(tmp_path: Path) -> None:
    seen: list[str] = []
    events = Events(tmp_path / "run" / "events.jsonl")
    events.subscribe(lambda event: seen.append(event["event"]))
    bound = events.bind(stage="base")
    bound.emit("step", step=1, loss=float("nan"))
    events.emit("finished")
    log = list(read_events(tmp_path / "run" / "events.jsonl"))
    assert [e["event"] for e in log] == seen == ["step", "finished"]
    assert log[0]["stage"] == "base" and log[0]["loss"] == "nan" and "stage" not in log[1]


def test_a_line_broken_by_a_crash_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps({"event": "step"}) + '\n{"event": "st')
    assert [e["event"] for e in read_events(path)] == ["step"]
    assert list(read_events(tmp_path / "none.jsonl")) == []
