"""Runs that are killed at any moment end in the same bits; Ctrl-C saves; damaged checkpoints are passed over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from danlu.core.budget import Budget
from danlu.core.errors import Interrupted, StageFailed
from danlu.core.events import read_events
from danlu.core.stage import StageRun
from danlu.train.checkpoint import checkpoints
from danlu.train.fit import Fitted, due, fit
from danlu.train.schedule import Horizon, Schedule, Spent
from tests.train.test_loop import setup

SCRIPT = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    import torch
    sys.path.insert(0, {root!r})
    torch.set_num_threads(1)
    from danlu.core import artifact
    from danlu.core.stage import StageRun
    from tests.train.test_fit import run_fit
    where, moment = sys.argv[2], int(sys.argv[3])
    count = 0
    def die_at(name, function):
        def wrapped(*args, **kwargs):
            global count
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return wrapped
    import safetensors.torch, danlu.train.optim as optim
    if where == "saving":       # between the files of a checkpoint
        safetensors.torch.save_file = die_at("save", safetensors.torch.save_file)
    elif where == "renaming":   # all files written, the name not yet there
        os.rename = die_at("rename", os.rename)
    elif where == "stepping":   # after the gradient, before the update is complete
        optim.orthogonalise = die_at("muon", optim.orthogonalise)
    run = StageRun.for_test(Path(sys.argv[1]))
    fitted, model = run_fit(run, 14)
    safetensors.torch.save_file({{k: v.detach() for k, v in model.named_parameters()}}, run.out / "final.safetensors")
    """
)


def run_fit(run: StageRun, steps: int, every: int = 4) -> tuple[Fitted, torch.nn.Module]:
    model, source, optimizer = setup(micro_rows=3)
    fitted = fit(
        model, source, optimizer, run,
        schedule=Schedule(), budget=Budget("steps", steps), clip=1.0, dtype=torch.float32, peak_flops=1e9,
        checkpoint_every=Budget("steps", every),
        validate=lambda: float(torch.rand(())), validate_every=Budget("share", 0.25),  # draws: the generator is state
        sample=lambda: ["text"], sample_every=Budget("share", 0.5),
    )  # fmt: skip
    return fitted, model


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in model.parameters()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert spawn(folder, "never", 0) == 0
    return (folder / "out" / "final.safetensors").read_bytes()


def spawn(folder: Path, where: str, moment: int) -> int:
    script = SCRIPT.format(root=str(Path(__file__).parents[2]))
    return subprocess.run([sys.executable, "-c", script, str(folder), where, str(moment)], timeout=120).returncode


@pytest.mark.parametrize(
    ("where", "moment"),
    [("stepping", 30), ("saving", 1), ("saving", 5), ("renaming", 2)],
)
def test_kill_nine_and_rerun_gives_the_same_bits(where: str, moment: int, tmp_path: Path, undisturbed: bytes) -> None:
    assert spawn(tmp_path, where, moment) == -signal.SIGKILL
    assert spawn(tmp_path, "never", 0) == 0
    assert (tmp_path / "out" / "final.safetensors").read_bytes() == undisturbed
    assert len(list((tmp_path / "work" / "checkpoints").iterdir())) == 2  # nothing half-written stays


def test_interrupt_saves_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    straight, expected = run_fit(StageRun.for_test(tmp_path / "a"), 10)
    run = StageRun.for_test(tmp_path / "b")
    run.events.subscribe(
        lambda e: os.kill(os.getpid(), signal.SIGINT) if e["event"] == "step" and e["step"] == 6 else None
    )
    with pytest.raises(Interrupted, match="after step 6"):
        run_fit(run, 10)
    resumed, model = run_fit(StageRun.for_test(tmp_path / "b"), 10)
    assert all(torch.equal(a, b) for a, b in zip(weights(expected), weights(model), strict=True))
    assert resumed.history == straight.history and resumed.spent.tokens == straight.spent.tokens
    assert resumed.spent.seconds > 0


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    _, expected = run_fit(StageRun.for_test(tmp_path / "a"), 10)
    run = StageRun.for_test(tmp_path / "b")
    run_fit(run, 10)
    newest, older = checkpoints(run.work)
    assert (newest.name, older.name) == ("step-00000010", "step-00000008")
    path = newest / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    _, model = run_fit(run, 10)
    assert run.events.path is not None
    warnings = [e["message"] for e in read_events(run.events.path) if e["event"] == "warning"]
    assert any("step-00000010 cannot be read" in message for message in warnings)
    assert all(torch.equal(a, b) for a, b in zip(weights(expected), weights(model), strict=True))


def test_failure_saves_the_state_from_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import danlu.train.loop as loop

    real = loop._gradient
    calls = iter(range(100))
    monkeypatch.setattr(loop, "_gradient", lambda *a: (float("nan"), 1.0) if next(calls) == 5 else real(*a))
    run = StageRun.for_test(tmp_path)
    with pytest.raises(StageFailed, match="step 6"):
        run_fit(run, 10)
    newest = next(checkpoints(run.work))
    state = json.loads((newest / "state.json").read_text())
    assert state["step"] == 5 and state["state"]["cursor"]["position"] == 5 * 8
    assert not list(newest.glob("*.p*kl*")) and {p.suffix for p in newest.iterdir()} == {".safetensors", ".json"}


def test_full_disk_is_one_sentence_and_keeps_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    real, calls = safetensors.torch.save_file, iter(range(100))

    def full(*args: object, **kwargs: object) -> None:
        if next(calls) >= 4:
            raise OSError(28, "No space left on device")
        real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    run = StageRun.for_test(tmp_path)
    with pytest.raises(StageFailed, match="No space left"):
        run_fit(run, 10)
    assert [p.name for p in (run.work / "checkpoints").iterdir()] == ["step-00000004"]


def test_events_and_history(tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    fitted, _ = run_fit(run, 8)
    assert run.events.path is not None
    events = list(read_events(run.events.path))
    steps = [e for e in events if e["event"] == "step"]
    assert [e["step"] for e in steps] == list(range(1, 9))
    assert set(steps[0]) >= {"loss", "learning_rate", "tokens_per_second", "share_of_peak", "memory_bytes", "progress"}
    assert [e["step"] for e in events if e["event"] == "validation"] == [2, 4, 6, 8]
    assert [e["step"] for e in events if e["event"] == "sample"] == [4, 8]
    assert [row[0] for row in fitted.history.validation] == [2, 4, 6, 8]


def test_due() -> None:
    horizon = Horizon("steps", 10)
    at = [Spent(steps=i, tokens=i * 100) for i in range(11)]
    share = [i for i in range(1, 11) if due(Budget("share", 0.25), at[i - 1], at[i], horizon)]
    tokens = [i for i in range(1, 11) if due(Budget("tokens", 300), at[i - 1], at[i], horizon)]
    assert share == [3, 5, 8, 10] and tokens == [3, 6, 9]
