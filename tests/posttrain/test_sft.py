"""Fine-tuning on real conversations: what is learned, what is set aside, and resuming to the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from danlu.core.artifact import Artifact, describe_files
from danlu.core.errors import Interrupted, UserError
from danlu.core.events import read_events
from danlu.core.stage import StageRun
from danlu.data.dataset import Row, messages_id, write_rows
from danlu.posttrain.sft import SftConfig, make_sample, sft
from danlu.tokenizer.tokenizer import Tokenizer
from danlu.train.pretrain import PretrainConfig, pretrain
from tests.train.test_pretrain import config as pretrain_config
from tests.train.test_pretrain import make_tokens


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("sft")
    run = StageRun.for_test(folder / "model")
    settings: PretrainConfig = pretrain_config(budget="4 steps", context=64)
    pretrain(settings, run, make_tokens(folder))
    return Artifact.from_path(run.out, "model")


def chat(question: str, *answers: str) -> list[dict[str, str]]:
    messages = []
    for answer in answers:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def dataset(folder: Path, rows: list[list[dict[str, str]]]) -> Artifact:
    folder.mkdir(parents=True)
    made = [Row(messages_id(messages), messages, "test") for messages in rows]
    write_rows(folder, "train", made[:-2])
    write_rows(folder, "validation", made[-2:])
    return Artifact.from_path(folder, "dataset")


def config(**changes: Any) -> SftConfig:
    keys = {"budget": "10 steps", "context": 64, "batch_rows": 4, "dtype": "float32", "learning_rate": 3e-3}
    return SftConfig(**{**keys, **changes})


def test_learns_and_counts_what_it_sets_aside(model: Artifact, tmp_path: Path) -> None:
    rows = [chat(f"{i} plus 1?", f"{i + 1}") for i in range(40)]
    rows.insert(0, chat("why", "because " * 300))  # too long even alone
    rows.insert(0, [{"role": "user", "content": "hello"}])  # nobody answers
    rows.insert(0, chat("more", "short", "long " * 200))  # fits without its second turn
    run = StageRun.for_test(tmp_path / "run")
    metrics = sft(config(budget="30 steps", sample_prompts=["2 plus 1?"]), run, model, dataset(tmp_path / "data", rows))
    report = json.loads((run.out / "report.json").read_text())
    assert report["rows"] == {
        "rows": 41, "used": 39, "shortened": 1, "too_long": 1, "no_answer": 1, "bad_messages": 0,
    }  # fmt: skip
    assert metrics["rows_used"] == 39 and report["packed_rows"] < 39
    curve = report["curve"]
    assert curve[-1][2] < 0.7 * curve[0][2]
    assert run.events.path is not None
    events = list(read_events(run.events.path))
    assert any(e["event"] == "warning" and "2 rows are not used" in e["message"] for e in events)
    assert any(e["event"] == "sample" and e["text"].startswith("2 plus 1? ->") for e in events)


def test_only_the_assistant_is_learned(model: Artifact) -> None:
    tokenizer = Tokenizer.load(model.path)
    sample, outcome = make_sample(chat("question", "answer"), tokenizer, 64, "reject")
    assert sample is not None and outcome == "used"
    learned = tokenizer.decode([t for t, m in zip(sample.ids, sample.mask, strict=True) if m])
    assert learned.startswith("answer") and "question" not in learned
    assert sample.ids[max(i for i, m in enumerate(sample.mask) if m)] in tokenizer.stop_ids


def test_truncation_is_a_choice(model: Artifact) -> None:
    tokenizer = Tokenizer.load(model.path)
    long = chat("q", "short", "long " * 100)
    shortened, outcome = make_sample(long, tokenizer, 64, "drop_turns")
    assert shortened is not None and outcome == "shortened" and len(shortened.ids) <= 64
    assert make_sample(long, tokenizer, 64, "reject") == (None, "too_long")
    assert make_sample([], tokenizer, 64, "reject") == (None, "no_answer")


def test_interrupted_and_resumed_gives_the_same_bytes(model: Artifact, tmp_path: Path) -> None:
    rows = [chat(f"{i} plus 1?", f"{i + 1}") for i in range(30)]
    data = dataset(tmp_path / "data", rows)
    straight = StageRun.for_test(tmp_path / "a")
    sft(config(), straight, model, data)
    stopped = StageRun.for_test(tmp_path / "b")

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 4:
            stopped.stop_requested = True

    stopped.events.subscribe(stop)
    with pytest.raises(Interrupted):
        sft(config(), stopped, model, data)
    sft(config(), StageRun.for_test(tmp_path / "b"), model, data)
    assert describe_files(straight.out) == describe_files(stopped.out)


def test_nothing_usable(model: Artifact, tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", [[{"role": "user", "content": "hello"}]] * 4)
    with pytest.raises(UserError, match="none of the 2 rows can be trained on"):
        sft(config(), StageRun.for_test(tmp_path / "run"), model, data)


def test_planning_needs_no_torch() -> None:
    """`danlu plan` imports every stage of a recipe and must answer at once."""
    code = "import sys, danlu.posttrain.sft, danlu.train.pretrain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
