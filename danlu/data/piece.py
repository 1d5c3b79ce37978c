"""What one worker does with one piece of the sources: read, clean, measure.

    piece  ->  items  ->  clean  ->  language  ->  cut  ->  measures, signature  ->  measured.parquet, counts.json

`measure_piece` is called by `danlu.core.workers`: in this process, in another or on another machine. What it writes
depends on the piece and the config alone. A few megabytes of text are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from danlu.core.artifact import write_json
from danlu.data.clean.characters import clean
from danlu.data.counts import Counts
from danlu.data.document import Document, document_id
from danlu.data.formats.extract import Broken, Item
from danlu.data.language import detect
from danlu.data.measure import MeasureConfig
from danlu.data.measured import ROWS_PER_GROUP, SCORE, schema
from danlu.data.quality.measure import COLUMNS
from danlu.data.scan import scan
from danlu.data.sources.find import SourceFile
from danlu.data.sources.pieces import Piece, read_piece
from danlu.data.split import cut, draw

_BATCH_CHARACTERS = 4_000_000  # measured at once: arrays long enough for the loops, short enough for the memory


def measure_piece(task: dict[str, Any], folder: Path) -> None:
    """Read, clean and measure the texts of `task["pieces"]` under `task["config"]` into the empty `folder`."""
    config = MeasureConfig(**task["config"])
    counts = Counts()
    with Writer(folder / "measured.parquet") as writer:
        for piece in map(Piece.from_json, task["pieces"]):
            for item in read_piece(piece, config.text_field):
                for row in _rows(config, piece.file, item, counts):
                    writer.add(row)
    write_json(folder / "counts.json", counts.to_json())


def _rows(config: MeasureConfig, file: SourceFile, item: Item | Broken, counts: Counts) -> Iterator[dict[str, Any]]:
    """The rows of one text: one, or the parts of a long one."""
    path = file.name + item.place
    licence = config.licence or (item.licence if isinstance(item, Item) else "") or file.licence
    if isinstance(item, Broken):
        text = item.text.encode("utf-8", "replace").decode()
        identity = document_id(file.source, path, text)
        broken_meta = {"path": path, "detail": item.detail}
        document = Document(identity, text, "", file.source, licence, broken_meta)
        yield _row(document, identity, 0, item.reason, item.detail)
        return
    counts.take_in(file.source, len(item.text.encode("utf-8", "surrogatepass")))
    identity = document_id(file.source, path, item.text)
    text, changes = clean(item.text)
    counts.cleaned.update(changes.keys())
    language = item.language or detect(text)
    parts = cut(text, config.max_document_chars) or [""]
    for number, part in enumerate(parts, start=1):
        meta: dict[str, Any] = {**item.meta, "path": path}
        name = identity
        if len(parts) > 1:
            meta |= {"part": number, "parts": len(parts), "origin": identity}
            name = document_id(file.source, f"{path}~{number}", part)
        document = Document(name, part, language, file.source, licence, meta)
        yield _row(document, identity, number if len(parts) > 1 else 0, "" if part.strip() else "empty", "")


def _row(document: Document, origin: str, part: int, reason: str, detail: str) -> dict[str, Any]:
    return {
        **document.row(),
        "reason": reason,
        "detail": detail,
        "origin": origin,
        "part": part,
        "draw": draw(origin, "sample"),
        "size": len(document.text.encode()),
    }


class Writer:
    """Collects rows, measures them by the batch and appends them to a Parquet file."""

    def __init__(self, path: Path) -> None:
        self._schema = schema(list(COLUMNS))
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._columns: dict[str, list[Any]] = {}
        self._rows = self._characters = 0

    def add(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            self._columns.setdefault(name, []).append(value)
        self._rows += 1
        self._characters += len(row["text"])
        if self._characters >= _BATCH_CHARACTERS or self._rows >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        texts = [
            "" if reason else text
            for text, reason in zip(*map(self._columns.__getitem__, ("text", "reason")), strict=True)
        ]
        scanned = scan(texts, self._columns["language"])
        arrays: dict[str, Any] = {
            **self._columns,
            "text_hash": _binary(scanned.hashes),
            "signature": _binary(scanned.signatures, scanned.empty),
            **{SCORE + name: scanned.measures[:, i] for i, name in enumerate(COLUMNS)},
        }
        self._file.write_table(pa.table({name: arrays[name] for name in self._schema.names}, schema=self._schema))
        self._columns, self._rows, self._characters = {}, 0, 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._file.close()


def _binary(values: NDArray[Any], empty: NDArray[np.bool_] | None = None) -> pa.Array:
    """Rows of numbers [D, n] as fixed-size binaries, null where `empty`."""
    rows = np.ascontiguousarray(values).view(np.uint8)
    present = None if empty is None else pa.py_buffer(np.packbits(~empty, bitorder="little").tobytes())
    return pa.Array.from_buffers(pa.binary(rows.shape[1]), len(rows), [present, pa.py_buffer(rows)])
