"""The walk of `data.measure`: sources cut into pieces, each measured by some worker, put together in their order.

    find      the files of every source, cut into pieces of a few megabytes                sources, plan
    measure   each piece by some worker: read, clean, count                                piece, core.workers
    collect   the pieces in order, their counts added up                                   counts

Pieces that are complete stay in the scratch directory of a killed run, and the next run goes on with the others. A
number of workers changes the time and not a byte of the result.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from danlu.core.artifact import Artifact, write_json
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.core.workers import folder_of, produce
from danlu.data.measure import MeasureConfig
from danlu.data.measuring.counts import Counts
from danlu.data.measuring.plan import make_plan
from danlu.data.sources.find import SourceFile, find_files
from danlu.data.sources.pieces import Piece, group, pieces

PIECE_BYTES = 8 << 20  # of input: seconds of work, so that a killed run loses little
SMALL_PIECE_BYTES = 512 << 10  # of a small input: a megabyte of packed web pages is five seconds of work
PIECES = 64  # of a small input: enough for workers to end together


def measure_sources(config: MeasureConfig, run: StageRun, into: Path, pages: Artifact | None = None) -> dict[str, Any]:
    """Write a measured corpus into the folder `into`; returns its report. Scratch lies in `run.work`.

    Raises UserError when a source is not there or holds no text, Interrupted when the user stops it.
    """
    sources = [*config.sources, *([str(pages.path)] if pages is not None else [])]
    if not sources:
        raise UserError("there is nothing to read", "name a source: a file, a folder, python:stdlib, npm:PACKAGE")
    size = piece_bytes(file for spec in sources for file in find_files(spec))
    n_files = 0

    def cut() -> Iterator[Piece]:
        nonlocal n_files
        for spec in sources:
            for file in find_files(spec):
                n_files += 1
                yield from pieces(file, size)

    fields = config.model_dump(mode="json", include=set(MeasureConfig.model_fields))
    tasks = make_plan(group(cut(), size), fields, run.work / "plan.jsonl", lambda: _clear(run.work))
    if not n_files:
        raise UserError(f"there is no text in {', '.join(sources)}", "the sources hold no files")
    folder = run.work / "pieces"
    steps = produce("danlu.data.measuring.piece:measure_piece", tasks, folder, run.workers, lambda: run.stop_requested)
    for done, _ in enumerate(steps, start=1):
        run.progress(done, len(tasks), "pieces")
    try:
        tasks.check()
    except UserError:
        run.clear_work()
        raise
    into.mkdir(exist_ok=True)

    def counts() -> Iterator[dict[str, Any]]:
        for number in range(len(tasks)):
            made = folder_of(folder, number)
            _place(made / "measured.parquet", into / f"measured-{number:05d}.parquet")
            yield json.loads((made / "counts.json").read_text("utf-8"))

    report = Counts.sum(counts()).report(n_files)
    write_json(into / "report.json", report)
    return report


def piece_bytes(files: Iterable[SourceFile]) -> int:
    """How large pieces are: `PIECE_BYTES`, or less where there is so little input that workers would wait in vain.

    It depends on the files alone, so another number of workers goes on with what an earlier run left.
    """
    total = 0
    for file in files:
        total += sum(piece.size for piece in pieces(file, 1 << 62))
        if total >= PIECES * PIECE_BYTES:
            return PIECE_BYTES
    return min(max(total // PIECES, SMALL_PIECE_BYTES), PIECE_BYTES)


def _clear(work: Path) -> None:
    """Forget what an earlier try left, but for the plan that is just being written."""
    for entry in work.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != "plan.part":
            entry.unlink(missing_ok=True)


def _place(made: Path, target: Path) -> None:
    """Put a finished file at its place without copying it, where the file system can. An earlier try may have, too."""
    target.unlink(missing_ok=True)
    try:
        os.link(made, target)
    except OSError:
        shutil.copyfile(made, target)
