"""The referee of the benches: keeps contestants loaded as processes and lets them take turns.

A contestant is a Python script that reads one JSON request a line from standard input and answers each with one JSON
line on a pipe of its own, because libraries print to standard output what they like. It may live in another
environment, so this file's worker side (`serve`) uses the standard library alone.

    referee                         contestant
    {"task": "decode", ...}   --->
                              <---  {"seconds": 1.2, "tokens": 64}, or {"error": "why not"}

Where a contestant cannot be installed, started or asked, `Unavailable` says why in its own words: the last line that
pip or the process left.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import traceback
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
ENVS = HERE / ".envs"
PIPE = "DANLU_CONTEST_PIPE"  # the number of the pipe that answers go to


class Unavailable(Exception):
    """A contestant that cannot take part, and why: one line."""


def serve(handler: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The contestant's side: answer requests until standard input ends."""
    out = os.fdopen(int(os.environ[PIPE]), "w")
    for line in sys.stdin:
        try:
            answer = handler(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {str(error).strip() or 'no message'}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()


class Contestant:
    """The referee's side of one process."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        read_end, write_end = os.pipe()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self.log,
            text=True,
            cwd=HERE.parent,
            pass_fds=(write_end,),
            env={**os.environ, PIPE: str(write_end)},
        )
        os.close(write_end)
        self.answers = os.fdopen(read_end)

    def ask(self, *, limit: float = 3600.0, **request: Any) -> dict[str, Any]:
        """One request. Raises Unavailable when it is refused, the process ends, or `limit` seconds pass."""
        assert self.process.stdin is not None
        alarm = threading.Timer(limit, self.process.kill)
        alarm.start()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.answers.readline()
        except BrokenPipeError:
            line = ""
        late = not alarm.is_alive()
        alarm.cancel()
        if not line:
            self.process.wait()
            raise Unavailable(f"no answer in {limit:.0f} s" if late else self.last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Unavailable(one_line(answer["error"]))
        return answer

    def last_words(self) -> str:
        """What an ended process left: the last line of its standard error, or how it ended."""
        self.log.seek(0)
        lines = [line for line in self.log.read().splitlines() if line.strip()]
        code = self.process.returncode
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"  # SIGILL: instructions that this processor has not
        return one_line(lines[-1]) if lines else f"exit code {code}"

    def close(self) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(timeout=60)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.answers.close()
        self.log.close()


def one_line(text: str, longest: int = 300) -> str:
    """The first line that says something, cut."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no message")
    return line if len(line) <= longest else line[: longest - 3] + "..."


def matrix_worker(dtype_name: str) -> None:
    """A contestant that does nothing but multiply square matrices, for as long as it is asked to: the limit.

    The probe of danlu reports the best rate that one product ever reached; what a machine keeps up for seconds, beside
    the same neighbours as the other contestants, is lower, and is what their medians are to be held against.
    """
    import time

    import torch

    a, b = (torch.randn(1024, 1024).to(getattr(torch, dtype_name)) for _ in range(2))
    out = torch.empty_like(a)

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        begin, count, best = time.perf_counter(), 0, float("inf")
        while (now := time.perf_counter()) - begin < request["seconds"]:
            torch.mm(a, b, out=out)
            count += 1
            best = min(best, time.perf_counter() - now)
        return {"flops": count * 2 * 1024**3 / (now - begin), "best_flops": 2 * 1024**3 / best}

    serve(handle)


def environment(name: str, requirements: list[str], without: Sequence[str] = ()) -> str:
    """The Python of an environment of its own with `requirements` installed, and then some removed; made once.

    Raises Unavailable with pip's reason when they cannot be installed.
    """
    folder = ENVS / name
    python = folder / "bin" / "python"
    stamp = folder / "requirements.txt"
    wanted = "\n".join([*requirements, *(f"without {package}" for package in without)])
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or [done.stderr]
            raise Unavailable(one_line(errors[0]))
        if without:
            subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *without], check=True)
        stamp.write_text(wanted)
    return str(python)


def versions(python: str, packages: list[str]) -> dict[str, str]:
    """Installed versions of packages in an environment."""
    code = (
        "import json, sys; from importlib.metadata import version; "
        "print(json.dumps({package: version(package) for package in sys.argv[1:]}))"
    )
    done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def spread(values: list[float]) -> dict[str, Any]:
    """Median, lowest and highest of the runs, and the runs themselves."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "runs": values}


def write_result(name: str, result: dict[str, Any]) -> Path:
    """bench/results/NAME.json, with the machine and the versions of what ran."""
    from danlu.core.run import danlu_version, git_revision, machine_name

    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    about = {
        "machine": machine_name(),
        "danlu": danlu_version(),
        "revision": git_revision(),
        "python": platform.python_version(),
    }
    path.write_text(json.dumps(about | result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
