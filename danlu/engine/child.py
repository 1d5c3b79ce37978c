"""A process that works for this one, and a pipe between the two.

    child = Child("danlu.engine.x", "work")      ──▶  python -c "...; work(pipe)"
    child.pipe.send(...)                         ──▶  pipe.recv()
    child.pipe.recv()                            ◀──  pipe.send(...)

Neither outlives what it is for. The pipe is how each learns of the other's end: the operating system closes it however
a process dies, `kill -9` included. The child has a thread that waits for nothing else, so it ends even while it
computes; the parent gets an EOFError at its next `recv`, a BrokenPipeError at its next `send`.

Not `multiprocessing`: its spawned children import the caller's script again, so that a script without
`if __name__ == "__main__"` would start engines without end. The child has a process group of its own: a Ctrl-C at the
terminal reaches the parent alone, and the parent decides.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection, Pipe

from danlu.core.errors import DanluError

START = "from danlu.engine.child import pipe; from {} import {} as work; work(pipe({}))"


class ProcessLost(DanluError):
    """A process that an engine needs is gone."""


class Child:
    """Runs `function(pipe)` of `module` in a new process, in our environment and what `environment` adds to it."""

    def __init__(self, module: str, function: str, environment: Mapping[str, str] | None = None) -> None:
        self.pipe, theirs = Pipe()
        # -P and our own path: the child imports what we would import, and nothing that lies in the working directory.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", START.format(module, function, theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(environment or {})},
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        theirs.close()

    def ended(self, within: float = 0.0) -> str | None:
        """How the process ended, or None if it still runs after `within` seconds."""
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            return None
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def end(self) -> None:
        """End the process, whatever it is doing: it has nothing to save. May be called twice.

        The pipe closes with its last reader here, which finds an EOFError.
        """
        self.process.kill()
        self.process.wait()


def pipe(descriptor: int) -> Connection:
    """In the child: its end of the pipe. From now on the process ends when the other end is closed."""
    threading.Thread(target=_end_with, args=(descriptor,), daemon=True).start()
    return Connection(descriptor)


def _end_with(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)  # no event but the hang-up, which is always reported
    poll.poll()
    os._exit(0)
