"""The plan of a measuring: the pieces of all sources, gathered into tasks, in a file of one line a task.

    {"pieces": [{"source": "in", "name": "a.jsonl", ..., "start": 0, "end": 8388600}], "stamps": [[9000000, 170000000]]}

A plan of a million files takes a gigabyte as Python objects; here only where each line begins is in memory. What an
earlier try left in the scratch directory belongs to this one if its plan is the same to the byte: the same pieces of
files of the same size and time of change.

`check` looks at the files once more when all is read. The id of the artifact stands for what they held in the
beginning, so a file that somebody wrote to meanwhile must not end up in it.
"""

from __future__ import annotations

import filecmp
import json
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from danlu.core.errors import UserError
from danlu.data.formats.streams import is_url
from danlu.data.sources.pieces import Piece


class Plan(Sequence[dict[str, Any]]):
    """Tasks {"config": ..., "pieces": [...]} for `piece.measure_piece`, read from the file one by one."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self._path, self._config = path, config
        self._starts = array("Q")
        with path.open("rb") as lines:
            self._starts.append(0)
            for line in lines:
                self._starts.append(self._starts[-1] + len(line))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: Any) -> Any:
        return {"config": self._config, "pieces": self._read(range(len(self))[number])["pieces"]}

    def check(self) -> None:
        """Raises UserError when a file is not as it was when the plan was made."""
        for number in range(len(self)):
            task = self._read(number)
            for piece, stamp in zip(task["pieces"], task["stamps"], strict=True):
                if _stamp(piece["path"]) != stamp:
                    raise UserError(
                        f'"{piece["name"]}" was changed while it was read', "run again when nobody writes to it"
                    )

    def _read(self, number: int) -> dict[str, Any]:
        with self._path.open("rb") as lines:
            lines.seek(self._starts[number])
            task: dict[str, Any] = json.loads(lines.read(self._starts[number + 1] - self._starts[number]))
        return task


def make_plan(groups: Iterable[list[Piece]], config: dict[str, Any], path: Path, anew: Callable[[], None]) -> Plan:
    """Write the plan to `path`; `anew` clears away what belongs to another one, if there is any.

    Killed between the two, the next try finds no plan and clears away again.
    """
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as out:  # ASCII: names may hold bytes that are no UTF-8
        for group in groups:
            pieces = [piece.to_json() for piece in group]
            out.write(json.dumps({"pieces": pieces, "stamps": [_stamp(piece["path"]) for piece in pieces]}) + "\n")
    if path.is_file() and filecmp.cmp(part, path, shallow=False):
        part.unlink()
    else:
        anew()
        os.replace(part, path)
    return Plan(path, config)


def _stamp(path: str) -> list[int] | None:
    """Size and time of change of a file; None for one that cannot be looked at, and for objects of a store."""
    if is_url(path):
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
