"""From sources to a measured corpus: stage `data.measure`.

    find      the files of every source, cut into pieces of a few megabytes                sources
    measure   each piece by some worker: read, clean, count                               piece, core.workers
    collect   the pieces in order                                                         measured

Nothing is decided here; what cannot be read has its reason, everything else its numbers. Pieces that are complete stay
in the scratch directory of a killed run, and the next run goes on with the others. A number of workers changes the time
and not a byte of the result.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from danlu.core.artifact import Artifact, write_json
from danlu.core.errors import UserError, shown
from danlu.core.stage import StageConfig, StageRun, stage
from danlu.data.clean.document import CleanConfig
from danlu.data.safety.personal import PersonalConfig

if TYPE_CHECKING:
    from danlu.data.sources.find import SourceFile
    from danlu.data.sources.pieces import Piece

PIECE_BYTES = 8 << 20  # of input: seconds of work, so that a killed run loses little
SMALL_PIECE_BYTES = 512 << 10  # of a small input: a megabyte of packed web pages is five seconds of work
PIECES = 64  # of a small input: enough for workers to end together


class MeasureConfig(StageConfig):
    """Only `source` is needed, or an input `pages` (what `data.crawl` made)."""

    source: str | list[str] = []
    """A file, a folder, a URL, python:stdlib, npm:PACKAGE, debian:PACKAGE, or a list of them."""
    licence: str = ""
    """Licence of the texts; empty takes what the source says."""
    text_field: str | None = None
    """Field of jsonl, csv and parquet records that holds the text; by default the usual names are tried."""
    clean: CleanConfig = CleanConfig()
    """Steps of cleaning: clean.html=false, clean.convert=simplified, ..."""
    line_filter: bool = False
    """Take out lines as C4 does: without an end mark, too short, about cookies. It takes titles too."""
    personal: PersonalConfig | None = PersonalConfig()
    """What happens to personal data: replaced by <PHONE> and the like, masked, kept, or the document dropped."""
    neutralise_markers: bool = True
    """Write "<|im_start|>" and its kin apart in prose, so that a web page cannot speak as a user."""
    benchmarks: list[str] = []
    """Drop documents that hold items of these: NAME, or NAME=PATH; see `data.benchmarks`."""
    max_document_chars: Annotated[int, Field(ge=1_000)] = 100_000
    """Longer documents are cut into parts, which stay on one side of the split."""

    @field_validator("source")
    @classmethod
    def _some_source(cls, value: str | list[str]) -> str | list[str]:
        if value == "" or (isinstance(value, list) and "" in value):
            raise ValueError("name a file, a folder, python:stdlib or npm:PACKAGE")
        names = [value] if isinstance(value, str) else value
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{shown(twice)} is named twice")
        return value

    @field_validator("source", "text_field", "licence")
    @classmethod
    def _whole_characters(cls, value: str | list[str] | None) -> str | list[str] | None:
        for name in [value] if isinstance(value, str) else value or []:
            if any("\ud800" <= character <= "\udfff" for character in name) or "\0" in name:
                raise ValueError(
                    f"{shown(name)} is no text in UTF-8; a folder of that name can be read by the one above it"
                )
        return value

    @property
    def sources(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else list(self.source)


def fingerprint(config: MeasureConfig) -> Any:
    """What stands for the content of the sources in the id of the artifact."""
    from danlu.data.sources.find import fingerprint as of_source

    sources = [of_source(spec) for spec in config.sources]
    if not config.benchmarks:
        return sources
    from danlu.data.benchmarks import fingerprint as of_benchmark

    return {"sources": sources, "benchmarks": [of_benchmark(spec) for spec in config.benchmarks]}


@stage("data.measure", makes="corpus", takes={"pages?": "corpus"}, version="2", fingerprint=fingerprint)
def measure(config: MeasureConfig, run: StageRun, pages: Artifact | None = None) -> dict[str, Any]:
    """Read sources, clean and measure every text, decide nothing."""
    with run.graceful():
        report = measure_sources(config, run, run.out, pages)
    return {"texts": report["in"]["texts"], "bytes": report["in"]["bytes"], "files": report["in"]["files"]}


def measure_sources(config: MeasureConfig, run: StageRun, into: Path, pages: Artifact | None = None) -> dict[str, Any]:
    """Write a measured corpus into the folder `into`; returns its report. Scratch lies in `run.work`.

    Raises UserError when a source is not there or holds no text, Interrupted when the user stops it.
    """
    from danlu.core.workers import folder_of, produce
    from danlu.data.counts import Counts
    from danlu.data.sources.find import find_files
    from danlu.data.sources.pieces import group, pieces
    from danlu.data.tasks import make_plan

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
    steps = produce("danlu.data.piece:measure_piece", tasks, folder, run.workers, lambda: run.stop_requested)
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
    from danlu.data.sources.pieces import pieces

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
