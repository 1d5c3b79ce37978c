"""Repeated parts: lines and passages that stand in many documents are taken out of them.

    repeated_lines      a line in more than so many documents goes from all of them     dedup.exact
    repeated_passages   a passage of so many units stays where it is first              dedup.substring

Both look at the documents that are kept, after whole duplicates are gone, and read their texts before they are
delivered: once for the lines, twice for the passages. Code is left alone by both: the same short lines and the same
licence heads are everywhere in it, and cutting them out leaves programs that do not run.

What is left of a document may be nothing; it is then rejected as "duplicate:parts".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.core.stage import StageRun
from danlu.core.text import units
from danlu.data.dedup.exact import PieceCounter, Repeated, piece_hashes
from danlu.data.dedup.substring import Spans, cut, repeated_spans
from danlu.data.select import SelectConfig
from danlu.data.selecting.fate import Index
from danlu.data.selecting.texts import read_texts

_SAMPLES = 5


@dataclass
class Trimmer:
    """What is to be taken out of which document, and the books of what was."""

    lines: Repeated | None
    passages: Spans | None
    rank: NDArray[np.int64]  # [D] place of a row in the order of ids, -1 where it is not looked at
    removed: Counter[str] = field(default_factory=Counter)  # "lines", "passages" -> how many
    removed_bytes: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[str]] = field(default_factory=lambda: {"lines": [], "passages": []})

    def trim(self, row: int, text: str) -> str:
        """The text of a row without what is repeated; "" when nothing with units is left."""
        if self.rank[row] < 0:
            return text
        before = text
        if self.passages is not None:
            text, parts = cut(text, self.passages.of(int(self.rank[row])))
            self._book("passages", parts)
        if self.lines is not None:
            text, gone = self.lines.remove(text)
            self._book("lines", [piece.text for piece in gone])
        return text if text == before or units(text) else ""

    def report(self) -> dict[str, object]:
        """What was taken out, for report.json."""
        return {
            kind: {"count": self.removed[kind], "bytes": self.removed_bytes[kind], "samples": self.samples[kind]}
            for kind in self.samples
            if self.removed[kind]
        }

    def _book(self, kind: str, parts: list[str]) -> None:
        for part in parts:
            self.removed[kind] += 1
            self.removed_bytes[kind] += len(part.encode())
            if len(self.samples[kind]) < _SAMPLES and part.strip():
                self.samples[kind].append(part.strip()[:160])


def find_repeated(
    config: SelectConfig, measured: Path, index: Index, kept: NDArray[np.bool_], run: StageRun
) -> Trimmer | None:
    """Look through the texts of the rows that are kept, bool [D]; None when nothing was asked for."""
    if config.repeated_lines is None and config.repeated_passages is None:
        return None
    rank = np.full(len(index), -1, dtype=np.int64)
    rows = np.flatnonzero(kept)
    rank[rows[np.argsort(index.ids[rows], kind="stable")]] = np.arange(len(rows))
    memory = config.memory_mb << 20

    def texts() -> Iterator[tuple[int, str]]:
        for row, language, text in read_texts(measured, kept, run):
            if language.startswith("code:"):
                rank[row] = -1
            else:
                yield row, text

    lines = None if config.repeated_lines is None else _lines(texts, run.work / "lines", config.repeated_lines, memory)
    passages = None
    if config.repeated_passages is not None:
        passages = repeated_spans(
            lambda: ((int(rank[row]), text) for row, text in texts()),
            run.work / "passages",
            at_least=config.repeated_passages,
            memory_bytes=memory,
        )
    return Trimmer(lines, passages, rank)


def _lines(texts: Callable[[], Iterator[tuple[int, str]]], work: Path, more_than: int, memory: int) -> Repeated:
    counter = PieceCounter(work, "line", memory_bytes=memory)
    for _, text in texts():
        counter.add(piece_hashes(text, "line"))
    return counter.finish(more_than)
