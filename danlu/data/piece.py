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

from danlu.core.artifact import write_json
from danlu.data.clean.characters import clean
from danlu.data.counts import Counts
from danlu.data.dedup.minhash import text_hash
from danlu.data.document import Document, document_id
from danlu.data.formats.extract import Broken, Item
from danlu.data.language import detect
from danlu.data.measure import MeasureConfig
from danlu.data.measured import ROWS_PER_GROUP, SCORE, schema
from danlu.data.scan import NAMES, scan
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
        "text_hash": text_hash(document.text),
    }


class Writer:
    """Collects rows, measures them by the batch and appends them to a Parquet file."""

    def __init__(self, path: Path) -> None:
        self._schema = schema(NAMES)
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._characters = 0

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._characters += len(row["text"])
        if self._characters >= _BATCH_CHARACTERS or len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        texts = ["" if row["reason"] else row["text"] for row in self._rows]
        scanned = scan(texts, [row["language"] for row in self._rows])
        table = pa.Table.from_pylist(self._rows, schema=pa.schema([f for f in self._schema if f.name in self._rows[0]]))
        signatures = np.ascontiguousarray(scanned.signatures).view(np.uint8).reshape(len(texts), -1)
        table = table.append_column(self._schema.field("signature"), _binary(signatures, scanned.empty))
        for i, name in enumerate(NAMES):
            table = table.append_column(SCORE + name, pa.array(scanned.measures[:, i]))
        self._file.write_table(table)
        self._rows, self._characters = [], 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._file.close()


def _binary(values: np.ndarray[Any, np.dtype[np.uint8]], empty: np.ndarray[Any, np.dtype[np.bool_]]) -> pa.Array:
    """uint8 [D, width] as fixed-size binaries, null where `empty`."""
    count, width = values.shape
    present = np.packbits(~empty, bitorder="little").tobytes()
    return pa.Array.from_buffers(
        pa.binary(width), count, [pa.py_buffer(present), pa.py_buffer(np.ascontiguousarray(values))]
    )
