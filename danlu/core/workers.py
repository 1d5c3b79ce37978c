"""Workers: the same work in this process, on all cores, or on a Ray cluster.

    tasks  --function(task, folder)-->  into/00000/  into/00001/  ...

`produce` calls a function once for every task; the function fills the folder it is given. A folder gets its name only
when it is complete, so a name that is there is a task that is done: a run killed at any moment and started again does
what is missing and nothing twice, whichever way it runs now. What a task makes must depend on the task alone; then the
number of workers changes the time and nothing else.

Tasks are JSON and a function is named as "package.module:function", so that nothing but text crosses the border of a
process. A worker is `python -m danlu.core.worker`, one task at a time, one JSON line each way:

    parent  {"function": "danlu.data.measuring.piece:measure_piece", "task": ..., "folder": ...}   --stdin-->   worker
    parent  <--stdout--   {}   or   {"error": "UserError", "message": ..., "hint": ...}

It ends when its standard input does, so killing the parent leaves no orphans behind. (multiprocessing would import the
caller's main script again, which a notebook does not have, and would send pickles.)

On Ray a task runs wherever there is a free core, in a temporary folder of that node, and the files come back through
Ray's object store: nodes must see the sources, but need not share the disk of the store.
"""

from __future__ import annotations

import importlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from danlu.core.errors import DanluError, Interrupted, StageFailed, UserError, need

Task = dict[str, Any]

_TRIES = 2  # of a task whose worker died; a second death is hardly chance
_ERRORS: dict[str, type[DanluError]] = {kind.__name__: kind for kind in (UserError, StageFailed, Interrupted)}


@dataclass(frozen=True)
class Workers:
    """How many, and where: `Workers(4)` processes of this machine, `Workers(ray="auto")` a cluster."""

    count: int = 1
    ray: str = ""  # address of a cluster: "auto" finds the running one, "local" starts one here

    @classmethod
    def parse(cls, text: str) -> Workers:
        """From what a person writes: "" or "all", "4", "ray", "ray:ADDRESS".

        >>> Workers.parse("ray:10.0.0.1:6379")
        Workers(count=1, ray='10.0.0.1:6379')
        """
        kind, _, address = text.strip().partition(":")
        if kind in ("", "all"):
            return cls(_cores())
        if kind == "ray":
            return cls(1, address or "auto")
        if kind.isdecimal() and int(kind) > 0 and not address:
            return cls(int(kind))
        raise UserError(f'workers cannot be "{text}"', "write a number, all, ray, or ray:ADDRESS")

    @classmethod
    def default(cls) -> Workers:
        """What `DANLU_WORKERS` says, else a process for every core."""
        return cls.parse(os.environ.get("DANLU_WORKERS", ""))


def produce(
    function: str | Callable[[Task, Path], None],
    tasks: Sequence[Task],
    into: Path,
    workers: Workers,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[int]:
    """Yield the number of every task as its folder `into/<number>` is complete, those of earlier runs first.

    The function is called as `function(task, folder)` with an empty folder; one that is given instead of named does all
    its work in this process. Raises what it raises (a DanluError as itself, anything else as StageFailed), Interrupted
    once `stop()` is true, StageFailed when workers keep dying.
    """
    into.mkdir(parents=True, exist_ok=True)
    for leftover in into.glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)
    waiting = deque(i for i in range(len(tasks)) if not folder_of(into, i).is_dir())
    yield from sorted(set(range(len(tasks))) - set(waiting))
    if isinstance(function, str) and workers.ray:
        yield from _on_ray(function, tasks, waiting, into, workers.ray, stop)
    elif isinstance(function, str) and workers.count > 1 and len(waiting) > 1:
        yield from _in_processes(function, tasks, waiting, into, workers.count, stop)
    else:
        while waiting:
            _stop_if(stop)
            number = waiting.popleft()
            perform(function, tasks[number], folder_of(into, number))
            yield number


def folder_of(into: Path, number: int) -> Path:
    return into / f"{number:05d}"


def perform(function: str | Callable[[Task, Path], None], task: Task, folder: Path) -> None:
    """Call the function on a hidden folder beside `folder` and rename it when it is complete."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True) as made:
        os.chmod(made, 0o755)
        (load(function) if isinstance(function, str) else function)(task, Path(made))
        _commit(Path(made), folder)


def load(function: str) -> Callable[[Task, Path], None]:
    module, _, name = function.partition(":")
    found: Callable[[Task, Path], None] = getattr(importlib.import_module(module), name)
    return found


def _commit(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was as fast, and made the same
            raise


def _stop_if(stop: Callable[[], bool]) -> None:
    if stop():
        raise Interrupted("stopped between two pieces of work", "run again: what is done is kept")


# ---- processes -------------------------------------------------------------------------------------------------


class _Process:
    """One `python -m danlu.core.worker` and the task it has."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "danlu.core.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.number = -1

    @property
    def output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def send(self, number: int, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.number = number
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any] | None:
        """What it said; None when it died."""
        line = self.output.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def _in_processes(
    function: str, tasks: Sequence[Task], waiting: deque[int], into: Path, count: int, stop: Callable[[], bool]
) -> Iterator[int]:
    tries: dict[int, int] = {}
    selector = selectors.DefaultSelector()
    everyone: set[_Process] = set()

    def hand_out(worker: _Process) -> None:
        number = waiting.popleft()
        tries[number] = tries.get(number, 0) + 1
        worker.send(number, {"function": function, "task": tasks[number], "folder": str(folder_of(into, number))})

    def start() -> None:
        worker = _Process()
        everyone.add(worker)
        selector.register(worker.output, selectors.EVENT_READ, worker)
        hand_out(worker)

    def retire(worker: _Process) -> None:
        selector.unregister(worker.output)
        everyone.discard(worker)
        worker.end()

    try:
        for _ in range(min(count, len(waiting))):
            start()
        while everyone:
            ready = selector.select(timeout=0.2)
            _stop_if(stop)
            for key, _ in ready:
                worker: _Process = key.data
                number, answer = worker.number, worker.answer()
                if answer is None:
                    retire(worker)
                    if tries[number] >= _TRIES:
                        raise StageFailed(
                            f"a worker died twice on the same piece of work (number {number})",
                            "the system may have run out of memory: try fewer workers with DANLU_WORKERS=1",
                        )
                    waiting.appendleft(number)
                    start()
                    continue
                _raise_error(answer)
                yield number
                if waiting:
                    hand_out(worker)
                else:
                    retire(worker)
    finally:
        for worker in everyone:
            worker.end()
        selector.close()


def _raise_error(answer: dict[str, Any]) -> None:
    if "error" not in answer:
        return
    kind = _ERRORS.get(answer["error"])
    if kind is not None:
        raise kind(answer["message"], answer["hint"])
    raise StageFailed(f"{answer['error']}: {answer['message']}", answer["hint"])


# ---- Ray -------------------------------------------------------------------------------------------------------


def _on_ray(
    function: str, tasks: Sequence[Task], waiting: deque[int], into: Path, address: str, stop: Callable[[], bool]
) -> Iterator[int]:
    ray = need("ray", "ray")
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address=None if address == "local" else address, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"there is no Ray cluster at {address} ({error})", "start one with: ray start --head"
            ) from None
    remote = ray.remote(num_cpus=1, max_retries=_TRIES)(_perform_away)
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < 2 * max(1, int(ray.cluster_resources().get("CPU", 1))):
                number = waiting.popleft()
                running[remote.remote(function, tasks[number])] = number
            done, _ = ray.wait(list(running), timeout=0.5)
            _stop_if(stop)
            for reference in done:
                number = running.pop(reference)
                answer, files = ray.get(reference)
                _raise_error(answer)
                _write_files(files, folder_of(into, number))
                yield number
    except ray.exceptions.RayError as error:
        raise StageFailed(
            f"the Ray cluster failed: {str(error).splitlines()[0]}", "run again: what is done is kept"
        ) from None
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if started:
            ray.shutdown()


def _perform_away(function: str, task: Task) -> tuple[dict[str, Any], dict[str, bytes]]:
    """On some node: the answer and the files made."""
    from danlu.core.worker import answered

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        answer = answered(function, task, made)
        return answer, {path.name: path.read_bytes() for path in made.iterdir()} if made.is_dir() else {}


def _write_files(files: dict[str, bytes], folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True) as made:
        os.chmod(made, 0o755)
        for name, data in files.items():
            (Path(made) / name).write_bytes(data)
        _commit(Path(made), folder)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
