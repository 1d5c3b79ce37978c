"""The other end of `workers`: a process that performs tasks, one JSON line in, one JSON line out.

Started as `python -m danlu.core.worker`. Standard output belongs to the answers; whatever the task prints goes to
standard error. SIGINT is left to the parent, which decides when to stop.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from danlu.core.errors import DanluError
from danlu.core.workers import Task, perform


def answered(function: str, task: Task, folder: Path) -> dict[str, Any]:
    """Perform the task; {} when it went well, else the error in words."""
    try:
        perform(function, task, folder)
    except DanluError as error:
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error), "hint": traceback.format_exc(limit=-3)}
    return {}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin.buffer:
        request = json.loads(line)
        answer = answered(request["function"], request["task"], Path(request["folder"]))
        answers.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
