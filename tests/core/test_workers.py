"""Work in this process, in several, and on a real Ray cluster of two nodes: the same folders, each made once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import Interrupted, StageFailed, UserError
from danlu.core.workers import Workers, folder_of, produce

HERE = "tests.core.test_workers"
ROOT = Path(__file__).parents[2]


def square(task: dict[str, Any], folder: Path) -> None:
    """The work of these tests; what goes wrong in it is part of the task."""
    if task.get("log"):
        with open(task["log"], "a") as log:
            log.write(f"{task['n']}\n")
    (folder / "half").write_text("half")
    if task.get("sleep"):
        time.sleep(task["sleep"])
    if task.get("error") == "user":
        raise UserError("the page is torn", "glue it")
    if task.get("error") == "bug":
        raise KeyError("n")
    if task.get("die") and not Path(task["die"]).exists():
        if task.get("once"):
            Path(task["die"]).write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)
    print("this must not disturb the answers")
    (folder / "result").write_text(str(task["n"] ** 2))


def _results(into: Path) -> list[str]:
    return [(folder / "result").read_text() for folder in sorted(into.glob("[0-9]*"))]


WAYS = [Workers(1), Workers(2), Workers(5)]


@pytest.mark.parametrize("workers", WAYS)
def test_every_task_has_its_folder(tmp_path: Path, workers: Workers) -> None:
    done = list(produce(f"{HERE}:square", [{"n": n} for n in range(7)], tmp_path / "into", workers))
    assert sorted(done) == list(range(7))
    assert _results(tmp_path / "into") == [str(n * n) for n in range(7)]


@pytest.mark.parametrize("workers", WAYS)
def test_what_is_done_is_not_done_again(tmp_path: Path, workers: Workers) -> None:
    log = tmp_path / "log"
    tasks = [{"n": n, "log": str(log)} for n in range(5)]
    steps = produce(f"{HERE}:square", tasks, tmp_path / "into", Workers(1))
    assert [next(steps), next(steps)] == [0, 1]
    steps.close()
    (tmp_path / "into" / ".00003-left").mkdir()  # of a killed process
    list(produce(f"{HERE}:square", tasks, tmp_path / "into", workers))
    assert sorted(log.read_text().split()) == list("01234")
    assert _results(tmp_path / "into") == ["0", "1", "4", "9", "16"]


@pytest.mark.parametrize("workers", [Workers(1), Workers(2)])
def test_errors_come_through(tmp_path: Path, workers: Workers) -> None:
    tasks = [{"n": 1}, {"n": 2, "error": "user"}, {"n": 3}]
    with pytest.raises(UserError, match=r"the page is torn\. glue it"):
        list(produce(f"{HERE}:square", tasks, tmp_path / "into", workers))
    assert not folder_of(tmp_path / "into", 1).exists()
    tasks[1] = {"n": 2, "error": "bug"}
    with pytest.raises((KeyError, StageFailed), match="n"):
        list(produce(f"{HERE}:square", tasks, tmp_path / "into", workers))


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    tasks = [{"n": 1}, {"n": 2, "die": str(tmp_path / "died"), "once": True}, {"n": 3}]
    list(produce(f"{HERE}:square", tasks, tmp_path / "into", Workers(2)))
    assert _results(tmp_path / "into") == ["1", "4", "9"]


def test_a_task_that_kills_its_worker_twice_is_given_up(tmp_path: Path) -> None:
    tasks = [{"n": 1}, {"n": 2, "die": str(tmp_path / "never")}]
    with pytest.raises(StageFailed, match="died twice"):
        list(produce(f"{HERE}:square", tasks, tmp_path / "into", Workers(2)))


@pytest.mark.parametrize("workers", [Workers(1), Workers(2)])
def test_a_stop_keeps_what_is_done(tmp_path: Path, workers: Workers) -> None:
    done: list[int] = []
    tasks = [{"n": n, "sleep": 0.05 * n} for n in range(6)]
    with pytest.raises(Interrupted):
        for number in produce(f"{HERE}:square", tasks, tmp_path / "into", workers, lambda: bool(done)):
            done.append(number)
    assert done and folder_of(tmp_path / "into", done[0]).is_dir() and not folder_of(tmp_path / "into", 5).exists()


def test_killing_the_parent_leaves_no_workers(tmp_path: Path) -> None:
    script = f"""
        from pathlib import Path
        from danlu.core.workers import Workers, produce
        tasks = [{{"n": n, "sleep": 0.3, "log": {str(tmp_path / "log")!r}}} for n in range(40)]
        list(produce("{HERE}:square", tasks, Path({str(tmp_path / "into")!r}), Workers(2)))
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT)
    while not (tmp_path / "into" / "00001").is_dir():
        assert parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    time.sleep(1.5)
    started = len((tmp_path / "log").read_text().split())
    time.sleep(1.0)
    assert len((tmp_path / "log").read_text().split()) == started < 40


@pytest.mark.parametrize(
    ("text", "workers"),
    [("4", Workers(4)), ("ray", Workers(1, "auto")), ("ray:10.0.0.1:6379", Workers(1, "10.0.0.1:6379"))],
)
def test_how_workers_are_written(text: str, workers: Workers) -> None:
    assert Workers.parse(text) == workers
    assert Workers.parse("all").count >= 1


@pytest.mark.parametrize("text", ["0", "-1", "many", "4:x", "1.5"])
def test_what_cannot_be_workers(text: str) -> None:
    with pytest.raises(UserError, match="workers cannot be"):
        Workers.parse(text)


def test_no_ray_cluster_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="there is no Ray cluster"):
        list(produce(f"{HERE}:square", [{"n": 1}], tmp_path / "into", Workers(ray="auto")))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray cluster of two nodes on this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made.address
    made.shutdown()


def test_on_a_ray_cluster(tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    tasks = [{"n": n, "sleep": 0.1} for n in range(6)]
    assert sorted(produce(f"{HERE}:square", tasks, tmp_path / "into", Workers(ray=cluster))) == list(range(6))
    assert _results(tmp_path / "into") == ["0", "1", "4", "9", "16", "25"]
    with pytest.raises(UserError, match="the page is torn"):
        list(produce(f"{HERE}:square", [{"n": 1, "error": "user"}], tmp_path / "other", Workers(ray=cluster)))
    assert not ray.is_initialized()
