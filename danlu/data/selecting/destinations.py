"""Pass 3 of `data.select`: every row to the file it belongs in.

train-*.parquet  validation-*.parquet    the corpus
rejected-*.parquet                       what was dropped, with its text and the reason
scores-*.parquet                         every number that was measured, and the place each document went to
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from danlu.core.stage import StageRun
from danlu.data.document import COLUMNS, REJECTED_SCHEMA, SCHEMA, ShardWriter
from danlu.data.measured import SCORE, read_measured, score_names
from danlu.data.selecting.fate import (
    DUPLICATE,
    KEPT,
    NOT_DRAWN,
    PARTS,
    REFUSED,
    TRAIN,
    VALIDATION,
    Fate,
    Index,
)
from danlu.data.selecting.judge import Judge
from danlu.data.selecting.trim import Trimmer

SAMPLES = 3  # dropped documents shown per reason in the report
_EXCERPT = 160  # characters of each
_NAMES = 1_000  # languages, sources and licences with numbers of their own: a row may claim anything to be its licence
OTHERS = "others"


@dataclass
class Books:
    """What went where, in documents and bytes."""

    documents: Counter[str] = field(default_factory=Counter)  # by split
    bytes: Counter[str] = field(default_factory=Counter)
    by_language: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    by_source: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    by_licence: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    lengths: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))  # language -> log2 -> count
    dropped: Counter[str] = field(default_factory=Counter)  # by reason
    dropped_bytes: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[dict[str, str]]] = field(default_factory=lambda: defaultdict(list))
    not_drawn: int = 0
    trimmed: dict[str, Any] = field(default_factory=dict)  # what `trim` took out of documents

    def keep(self, split: str, documents: pa.RecordBatch) -> None:
        """Documents of some columns (language, source, licence, size in bytes) are kept on this side."""
        table = pa.table({name: documents[name] for name in ("language", "source", "licence", "size")})
        self.documents[split] += len(table)
        self.bytes[split] += pc.sum(table["size"]).as_py() or 0
        for name, books in (("language", self.by_language), ("source", self.by_source), ("licence", self.by_licence)):
            for group in table.group_by(name).aggregate([("size", "sum"), ("size", "count")]).to_pylist():
                value = group[name] if group[name] in books or len(books) < _NAMES else OTHERS
                books[value].update(documents=group["size_count"], bytes=group["size_sum"])
        logs = pc.floor(pc.log2(pc.max_element_wise(table["size"], 1))).cast(pa.int64())
        counted = (
            pa.table({"language": table["language"], "log": logs})
            .group_by(["language", "log"])
            .aggregate([("log", "count")])
        )
        for group in counted.to_pylist():
            language = group["language"] if group["language"] in self.by_language else OTHERS
            self.lengths[language][group["log"]] += group["log_count"]

    def drop(self, row: dict[str, str], reason: str, detail: str, size: int) -> None:
        self.dropped[reason] += 1
        self.dropped_bytes[reason] += size
        if len(self.samples[reason]) < SAMPLES:
            text = row["text"][:_EXCERPT]
            self.samples[reason].append({"id": row["id"], "meta": row["meta"], "text": text, "detail": detail})


def deliver(
    run: StageRun, measured: Path, index: Index, fate: Fate, judge: Judge, trimmer: Trimmer | None = None
) -> Books:
    """Stream the measured corpus to its destinations in `run.out`; `trimmer` takes repeated parts out on the way."""
    scores = [SCORE + name for name in score_names(measured)]
    scores_schema = pa.schema([("id", pa.string()), ("place", pa.string()), *((name, pa.float32()) for name in scores)])
    books, start = Books(), 0
    copies = fate.copies()
    with ExitStack() as stack:
        splits = {
            place: stack.enter_context(ShardWriter(run.out, name, SCHEMA))
            for place, name in ((TRAIN, "train"), (VALIDATION, "validation"))
        }
        rejected = stack.enter_context(ShardWriter(run.out, "rejected", REJECTED_SCHEMA))
        numbers = stack.enter_context(ShardWriter(run.out, "scores", scores_schema, rows_per_file=1_000_000))
        for batch in read_measured(measured, [*COLUMNS, "detail", "size", *scores]):
            run.stop_if_asked()
            rows = slice(start, start + len(batch))
            where = fate.where[rows]
            shorter = batch if trimmer is None else _trimmed(batch, where, start, trimmer)
            shorter = _counted(shorter, copies[rows])
            places = np.full(len(batch), "", dtype=object)
            for place, writer in splits.items():
                mine = where == place
                kept = shorter.filter(pa.array(mine))
                places[mine] = writer.split
                writer.write_table(pa.Table.from_batches([kept.select(SCHEMA.names)]))
                books.keep(writer.split, kept)
            dropped = np.flatnonzero(~np.isin(where, (*KEPT, NOT_DRAWN)))
            reasons = _reasons(batch, dropped, start, index, fate, judge)
            rows_dropped = batch.select([*COLUMNS, "size"]).take(dropped).to_pylist()
            for i, row, (reason, detail, more) in zip(dropped.tolist(), rows_dropped, reasons, strict=True):
                size = row.pop("size")
                row["meta"] = _with(row["meta"], more) if more else row["meta"]
                rejected.write({**row, "reason": reason, "detail": detail})
                books.drop(row, reason, detail, size)
                places[i] = reason
            books.not_drawn += int((where == NOT_DRAWN).sum())
            numbers.write_table(_scores(batch, places, where != NOT_DRAWN, scores))
            start += len(batch)
            run.progress(start, len(index), "documents")
    books.trimmed = {} if trimmer is None else trimmer.report()
    return books


def _trimmed(batch: pa.RecordBatch, where: NDArray[np.int8], start: int, trimmer: Trimmer) -> pa.RecordBatch:
    """The batch with shorter texts; documents of which nothing is left are marked in `where`."""
    texts = batch["text"].to_pylist()
    sizes = batch["size"].to_numpy().copy()
    for i in np.flatnonzero(np.isin(where, KEPT)).tolist():
        texts[i] = trimmer.trim(start + i, texts[i])
        sizes[i] = len(texts[i].encode())
        if not texts[i]:
            where[i] = PARTS
    changed = batch.set_column(batch.schema.get_field_index("text"), "text", pa.array(texts, pa.string()))
    return changed.set_column(batch.schema.get_field_index("size"), "size", pa.array(sizes))


def _counted(batch: pa.RecordBatch, copies: NDArray[np.uint32]) -> pa.RecordBatch:
    """The batch with `copies` in the meta of documents that stand for more than one: mixing may want to know."""
    if not (copies > 1).any():
        return batch
    metas = batch["meta"].to_pylist()
    for i in np.flatnonzero(copies > 1).tolist():
        metas[i] = _with(metas[i], {"copies": int(copies[i])})
    return batch.set_column(batch.schema.get_field_index("meta"), "meta", pa.array(metas, pa.string()))


def _reasons(
    batch: pa.RecordBatch, rows: NDArray[np.int64], start: int, index: Index, fate: Fate, judge: Judge
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(reason, detail, more for meta) of each dropped row; a duplicate's meta gets the id of the one that is kept."""
    where, codes = fate.where[start : start + len(batch)], index.codes[start : start + len(batch)]
    refused = rows[where[rows] == REFUSED]
    details = dict(zip(refused.tolist(), judge.details(codes, batch, refused), strict=True))
    for row in rows.tolist():
        place = int(where[row])
        if place == PARTS:
            yield DUPLICATE[place], "all of it is in other documents", {}
        elif place in DUPLICATE:
            kept = index.name(int(fate.kept_instead[start + row]))
            similarity = round(float(fate.similarity[start + row]), 3)
            more = {"duplicate_of": kept, "similarity": similarity}
            yield DUPLICATE[place], f"of {kept}, similarity {similarity}", more
        else:
            yield judge.reasons[codes[row]], batch["detail"][row].as_py() or details[row], {}


def _scores(batch: pa.RecordBatch, places: NDArray[Any], shown: NDArray[np.bool_], scores: list[str]) -> pa.Table:
    columns = {"id": batch["id"], "place": pa.array(places.tolist(), pa.string())}
    return pa.table(columns | {name: batch[name] for name in scores}).filter(pa.array(shown))


def _with(meta: str, more: dict[str, Any]) -> str:
    return json.dumps(json.loads(meta) | more, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
