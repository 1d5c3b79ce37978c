"""What one worker does with one piece of the sources: read, clean, measure.

    items -> clean -> language -> line filter -> cut -> personal data -> benchmarks -> scores -> measured.parquet
                                                                      and what was changed -> counts.json

`measure_piece` is called by `danlu.core.workers`: in this process, in another or on another machine. What it writes
depends on the piece and the config alone. A few megabytes of text are in memory at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from danlu.core.artifact import write_json
from danlu.data.clean.document import clean_document
from danlu.data.contamination.index import Contamination, load_once
from danlu.data.document import Document, document_id
from danlu.data.formats.item import Broken, Item
from danlu.data.language import identify
from danlu.data.measure import MeasureConfig
from danlu.data.measured import OWN_SCORES, ROWS_PER_GROUP, SCORE, schema, scores
from danlu.data.measuring.counts import Counts
from danlu.data.quality.lines import keep_lines
from danlu.data.quality.measure import COLUMNS
from danlu.data.safety.injection import score_injection
from danlu.data.safety.licence import judge_robots
from danlu.data.safety.personal import treat
from danlu.data.safety.safe import make_safe
from danlu.data.scan import scan
from danlu.data.sources.find import SourceFile
from danlu.data.sources.pieces import Piece, read_piece
from danlu.data.split import cut, draw

_SURROGATES = re.compile("[\ud800-\udfff]")
_SAID_BY_PEOPLE = ("title", "author")  # facts about a text that may name the person; addresses and dates stay
_BATCH_CHARACTERS = 4_000_000  # measured at once: arrays long enough for the loops, short enough for the memory


def measure_piece(task: dict[str, Any], folder: Path) -> None:
    """Read, clean and measure the texts of `task["pieces"]` under `task["config"]` into the empty `folder`."""
    config = MeasureConfig(**task["config"])
    counts = Counts()
    contamination = load_once(tuple(config.benchmarks)) if config.benchmarks else None
    with Writer(folder / "measured.parquet", counts, contamination) as writer:
        for piece in map(Piece.from_json, task["pieces"]):
            for item in _items(piece, config):
                for row in _rows(config, piece.file, item, counts):
                    writer.add(row)
    write_json(folder / "counts.json", counts.to_json())


def _items(piece: Piece, config: MeasureConfig) -> Iterator[Item | Broken]:
    """The texts of a piece; an empty file is said to be one, also where its format would have no record of it."""
    nothing = True
    for item in read_piece(piece, config.text_field):
        nothing = False
        yield item
    if nothing and piece.is_whole and not piece.size:
        yield Broken("empty", "a file of no bytes")


def _rows(config: MeasureConfig, file: SourceFile, item: Item | Broken, counts: Counts) -> Iterator[dict[str, Any]]:
    """The rows of one text: one, or the parts of a long one."""
    path, source = _name(file.name + item.place), _name(file.source)
    if isinstance(item, Broken):
        text = item.text if config.personal is None else treat(item.text, config.personal).text
        identity = document_id(file.source, file.name + item.place, item.text)
        document = Document(identity, _whole(text), "", source, _whole(config.licence or file.licence), {"path": path})
        yield _row(document, identity, 0, item.reason, _whole(item.detail))
        return
    counts.take_in(source, len(item.text.encode("utf-8", "surrogatepass")))
    identity = document_id(file.source, file.name + item.place, item.text)
    cleaned = clean_document(item.text if config.clean.characters else _whole(item.text), config.clean, item.language)
    counts.clean(path, item.text, cleaned, config.personal)
    text = cleaned.text
    language, confidence, script = identify(text) if not item.language else (item.language, 1.0, "")
    if config.line_filter and not language.startswith("code:"):
        text, removed = keep_lines(text)
        counts.remove_lines(removed, config.personal)
    hidden = score_injection(item.text) if cleaned.changes else 0.0  # as it came: cleaning takes comments away
    own = {"confidence": confidence, "traditional": float(script == "hant")}
    own["opt_out"] = float(bool(item.meta and judge_robots(item.meta)[0]))
    licence = _whole(config.licence or item.licence or file.licence)
    facts = _facts(item.meta, config)
    parts = cut(text, config.max_document_chars) or [""]
    for number, part in enumerate(parts, start=1):
        meta: dict[str, Any] = {**facts, "path": path}
        name = identity
        if len(parts) > 1:
            meta |= {"part": number, "parts": len(parts), "origin": identity}
            name = document_id(file.source, f"{file.name}{item.place}~{number}", part)
        safe = make_safe(part, config.personal, language=language, neutralise_markers=config.neutralise_markers)
        counts.personal.update(safe.changes)
        reason = "safety:personal" if safe.drop else "" if safe.text.strip() else "empty"
        document = Document(name, safe.text, language, source, licence, meta)
        found = {**own, **safe.scores, "injection": max(hidden, safe.scores["injection"])}
        yield _row(document, identity, number if len(parts) > 1 else 0, reason, safe.drop, found)


def _facts(meta: dict[str, Any], config: MeasureConfig) -> dict[str, Any]:
    """What the format knows of a text, fit to be stored: whole characters, no personal data where people write."""

    def fit(name: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return _whole(treat(value, config.personal).text if config.personal and name in _SAID_BY_PEOPLE else value)

    return {name: fit(name, value) for name, value in meta.items()}


def _whole(text: str) -> str:
    """Half of a UTF-16 pair, which no file can hold, becomes U+FFFD, as in cleaning."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def _name(text: str) -> str:
    """A name with bytes that are no UTF-8 (Python's surrogates) has them as \\udcff: other names stay other names."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _row(
    document: Document, origin: str, part: int, reason: str, detail: str, own: dict[str, float] | None = None
) -> dict[str, Any]:
    return {
        **document.row(),
        "reason": reason,
        "detail": detail,
        "origin": origin,
        "part": part,
        "draw": draw(origin, "sample"),
        "size": len(document.text.encode()),
        **{SCORE + name: (own or {}).get(name, 0.0) for name in OWN_SCORES},
    }


class Writer:
    """Collects rows, measures them by the batch and appends them to a Parquet file."""

    def __init__(self, path: Path, counts: Counts, contamination: Contamination | None) -> None:
        self._counts, self._contamination = counts, contamination
        self._schema = schema(scores())
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
        if self._contamination is not None:
            self._look_for_benchmarks(self._contamination)
        pairs = zip(self._columns["text"], self._columns["reason"], strict=True)
        scanned = scan(["" if reason else text for text, reason in pairs], self._columns["language"])
        arrays: dict[str, Any] = {
            **self._columns,
            "text_hash": _binary(scanned.hashes),
            "signature": _binary(scanned.signatures, scanned.empty),
            **{SCORE + name: scanned.measures[:, i] for i, name in enumerate(COLUMNS)},
        }
        self._file.write_table(pa.table({name: arrays[name] for name in self._schema.names}, schema=self._schema))
        self._columns, self._rows, self._characters = {}, 0, 0

    def _look_for_benchmarks(self, contamination: Contamination) -> None:
        """Give documents that hold items of a benchmark their reason."""
        reasons, details = self._columns["reason"], self._columns["detail"]
        for i, hits in enumerate(contamination.check_many(self._columns["text"])):
            if hits and not reasons[i]:
                reasons[i] = f"contamination:{hits[0].benchmark}"
                details[i] = "; ".join(hit.describe() for hit in hits[:3])
                self._counts.contaminate(self._columns["id"][i], hits)

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
