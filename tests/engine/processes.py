"""For tests of engines with several processes: a rank in a thread, and what is left of a process."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Pipe
from typing import Any

import psutil

from danlu.engine import parallel


class ThreadChild:
    """As `Child`, in a thread: the same ranks and the same group, without seconds to start a process."""

    def __init__(self, module: str, function: str) -> None:
        assert (module, function) == ("danlu.engine.parallel", "work")
        self.pipe, theirs = Pipe()
        self._thread = threading.Thread(target=parallel.work, args=(theirs,), daemon=True)
        self._thread.start()

    def ended(self, within: float = 0.0) -> str | None:
        self._thread.join(within)
        return None if self._thread.is_alive() else "the thread ended"

    def end(self) -> None:
        self.pipe.close()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()


def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # dead; only nobody has asked yet
    except psutil.NoSuchProcess:
        return True


def children_after_kill(script: str, *arguments: str) -> list[int]:
    """Run a script that prints the ids of its children when they are at work; kill -9 it; return the ids."""
    parent = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        line = ""
        while not line.startswith("children"):
            line = parent.stdout.readline()
            assert line, "the script ended"
        pids = [int(pid) for pid in line.split()[1:]]
        assert pids and not any(is_gone(pid) for pid in pids)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    return pids
