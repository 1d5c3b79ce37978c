from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from danlu.core.artifact import Artifact
from danlu.core.errors import Interrupted, StageFailed, UserError
from danlu.core.events import read_events
from danlu.core.lineage import lineage
from danlu.core.recipe import Recipe, build_recipe, load_recipe
from danlu.core.run import run_recipe, run_stage
from danlu.core.stage import StageRun, get_stage
from danlu.core.store import Store
from tests.core import toys

TOY = {
    "name": "toy",
    "stages": {
        "text": {"use": "tests.core.toys:source"},
        "report": {"use": "tests.core.toys:count", "corpus": "$text"},
    },
}


def toy(**report: object) -> Recipe:
    stages = {**TOY["stages"], "report": {**TOY["stages"]["report"], **report}}  # type: ignore[index, dict-item]
    return build_recipe({"name": "toy", "stages": stages}, {})


def test_a_stage_is_a_plain_function(tmp_path: Path) -> None:
    run = StageRun.for_test(tmp_path)
    assert toys.source(toys.SourceConfig(lines=2), run) == {"lines": 2}
    assert (run.out / "text.txt").read_text() == "0\n1"


def test_what_is_up_to_date_is_not_built_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = run_recipe(toy(), store)
    second = run_recipe(toy(), store)
    assert {n: a.id for n, a in first.artifacts.items()} == {n: a.id for n, a in second.artifacts.items()}
    assert [e["event"] for e in read_events(second.events)] == ["cached", "cached"]
    assert store.resolve("toy.report").id == store.resolve("report").id == first.artifacts["report"].id
    manifest = first.artifacts["report"].manifest
    assert manifest.metrics["steps"] == 5 and set(manifest.files) == {"report.json", "deep/bytes.bin"}
    assert manifest.machine and manifest.created and manifest.parents == {"corpus": first.artifacts["text"].id}
    assert not store.work(manifest.id).exists()


def test_only_builds_a_part(tmp_path: Path) -> None:
    assert list(run_recipe(toy(), Store(tmp_path), only=["text"]).artifacts) == ["text"]


def test_a_failure_leaves_no_artifact_and_keeps_the_scratch(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="the toy broke"):
        run_recipe(toy(fail_at=3), store)
    assert store.manifests("report") == [] and store.manifests("corpus")
    assert [p.name for p in (tmp_path / "report").iterdir()] == []
    assert "step" in [p.name for w in (tmp_path / "work").iterdir() if w.is_dir() for p in w.iterdir()]


def test_a_stage_that_writes_nothing_has_failed(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="wrote nothing"):
        run_stage("tests.core.toys:empty", {}, Store(tmp_path))


def test_one_stage_without_a_recipe(tmp_path: Path) -> None:
    store = Store(tmp_path)
    text = run_stage("tests.core.toys:source", {"lines": 2}, store, save_as="two")
    report = run_stage("tests.core.toys:count", {"corpus": "two", "steps": 1}, store)
    assert store.resolve("two").id == text.id and store.resolve("count").id == report.id
    with pytest.raises(UserError, match='has no key "lnes"'):
        run_stage("tests.core.toys:source", {"lnes": 2}, store)


def test_stages_are_found_by_name() -> None:
    with pytest.raises(UserError, match=r"did you mean .data[.]prepare."):
        get_stage("data.prepar")
    assert get_stage("tests.core.toys:source").name == "toys.source"


RECIPE = """\
name: toy
stages:
  text:
    use: tests.core.toys:source
  report:
    use: tests.core.toys:count
    corpus: $text
    steps: 30
    pause: 0.02
"""


def start(tmp_path: Path) -> subprocess.Popen[str]:
    (tmp_path / "toy.yaml").write_text(RECIPE)
    command = [
        sys.executable,
        "-m",
        "danlu.cli.main",
        "run",
        str(tmp_path / "toy.yaml"),
        "--store",
        str(tmp_path / "s"),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(tmp_path: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for log in (tmp_path / "s" / "runs").glob("*/events.jsonl"):
            if any(e["event"] == "step" and e["step"] >= step for e in read_events(log)):
                return
        time.sleep(0.01)
    raise AssertionError("the run made no steps")


@pytest.mark.journey
@pytest.mark.parametrize("step", [1, 12])
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, step: int) -> None:
    process = start(tmp_path)
    wait_for_step(tmp_path, step)
    process.kill()
    process.communicate()
    store = Store(tmp_path / "s")
    assert store.manifests("report") == []
    resumed = run_recipe(load_recipe(tmp_path / "toy.yaml"), store).artifacts["report"]
    fresh = run_recipe(load_recipe(tmp_path / "toy.yaml"), Store(tmp_path / "t")).artifacts["report"]
    assert resumed.manifest.metrics["resumed_from"] >= step and fresh.manifest.metrics["resumed_from"] == 0
    assert resumed.manifest.content == fresh.manifest.content and resumed.id == fresh.id


@pytest.mark.journey
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, signum: int) -> None:
    process = start(tmp_path)
    wait_for_step(tmp_path, 2)
    os.kill(process.pid, signum)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped at step" in stderr and "goes on from here" in stderr and "Traceback" not in stderr
    resumed: Artifact = run_recipe(load_recipe(tmp_path / "toy.yaml"), Store(tmp_path / "s")).artifacts["report"]
    assert resumed.manifest.metrics["resumed_from"] >= 2


def test_an_interrupt_outside_a_graceful_block_is_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(toys, "write_json", interrupt)
    with pytest.raises(Interrupted) as caught:
        run_recipe(toy(), Store(tmp_path))
    assert caught.value.exit_code == 130 and "goes on from here" in caught.value.hint


def test_what_another_process_finished_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run_stage("tests.core.toys:source", {}, Store(tmp_path))
    store = Store(tmp_path)
    answers = iter([None, made])  # it is not there before the lock is ours, and it is there afterwards
    monkeypatch.setattr(store, "get", lambda artifact_id: next(answers))
    monkeypatch.setattr(store, "manifest", lambda artifact_id: None)
    again = run_stage("tests.core.toys:source", {}, store)
    assert again.manifest.created == made.manifest.created


def test_a_name_that_cannot_be_is_found_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be a name"):
        run_stage("tests.core.toys:source", {}, Store(tmp_path), save_as="two words")
    assert Store(tmp_path).manifests() == []
    made = run_stage("tests.core.toys:source", {}, Store(tmp_path), save_as="text@v1")
    assert Store(tmp_path).resolve("text@v1").id == made.id


def test_sigterm_outside_a_graceful_block_is_130_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toys, "write_json", lambda *arguments: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped in stage"):
        run_recipe(toy(), Store(tmp_path))
    assert signal.getsignal(signal.SIGTERM) is before
    assert list(tmp_path.glob("*/.*")) == [] and Store(tmp_path).in_use() == set()


def joined(corpora: object) -> Recipe:
    source = {"use": "tests.core.toys:source"}
    stages = {"b": source, "a": {**source, "lines": 1}, "both": {"use": "tests.core.toys:join", "corpora": corpora}}
    return build_recipe({"name": "toy", "stages": stages}, {})


def test_a_role_may_take_several_artifacts_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    built = run_recipe(joined(["$b", "$a"]), store).artifacts
    assert json.loads((built["both"].path / "report.json").read_text()) == {n: built[n].id for n in "ab"}
    manifest = built["both"].manifest
    assert manifest.metrics["names"] == ["a", "b"]  # sorted, so that the order of writing cannot matter
    assert manifest.parents == {"corpora.a": built["a"].id, "corpora.b": built["b"].id}
    again = run_recipe(joined({"a": "$a", "b": "$b"}), store).artifacts
    assert again["both"].id == manifest.id
    assert run_recipe(joined({"web": "$a"}), store).artifacts["both"].manifest.metrics["names"] == ["web"]
    outside = run_stage("tests.core.toys:join", {"corpora": {"x": built["a"].id}}, store)
    assert outside.manifest.parents == {"corpora.x": built["a"].id}
    assert [a.id for a in lineage(store, outside).parents.values()] == [built["a"].id]


@pytest.mark.parametrize("corpora", [[], {}, None, ["$a", "$a"], ["$c"], {"a": "$both"}, {"a": 3}, {"?": "$a"}])
def test_several_inputs_are_checked_before_anything_runs(corpora: object) -> None:
    with pytest.raises(UserError):
        joined(corpora)


def with_failing(**changes: dict[str, object]) -> Recipe:
    """`both` joins a, b that refuses, and c that needs b; b and c may fail."""
    stages: dict[str, dict[str, object]] = {
        "a": {"use": "tests.core.toys:source"},
        "b": {"use": "tests.core.toys:refuse", "may_fail": True},
        "c": {"use": "tests.core.toys:refuse", "corpus": "$b", "may_fail": True},
        "both": {"use": "tests.core.toys:join", "corpora": ["$a", "$b", "$c"]},
    }
    for name, change in changes.items():
        stages[name] |= change
    return build_recipe({"name": "toy", "stages": stages}, {})


def test_what_may_fail_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for again in (False, True):
        done = run_recipe(with_failing(), store, only=["both"])
        assert list(done.artifacts) == ["a", "both"]
        assert done.failed == {"b": "this does not suit me", "c": 'needs "b"'}
        assert done.artifacts["both"].manifest.parents == {"corpora.a": done.artifacts["a"].id}
        told = [(e["stage"], e["event"]) for e in read_events(done.events)]
        assert ("b", "warning") in told and told[-1] == ("both", "cached" if again else "finished")


@pytest.mark.parametrize(
    ("changes", "only", "error"),
    [
        ({"b": {"may_fail": False}}, None, "does not suit me"),
        ({"c": {"may_fail": False}}, None, 'stage "c" cannot do without "b". this does not suit me'),
        ({"both": {"corpora": ["$b", "$c"]}}, None, 'stage "both" cannot do without "b"'),
        ({}, ["b"], "does not suit me"),
        ({}, ["c"], "does not suit me"),
    ],
)
def test_what_is_needed_may_not_fail(
    tmp_path: Path, changes: dict[str, dict[str, object]], only: list[str] | None, error: str
) -> None:
    with pytest.raises((UserError, StageFailed), match=error):
        run_recipe(with_failing(**changes), Store(tmp_path), only)
