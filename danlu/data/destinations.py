"""Pass 3 of `data.select`: every row to the file it belongs in.

train-*.parquet  validation-*.parquet    the corpus
rejected-*.parquet                       what was dropped, with its text and the reason
scores-*.parquet                         every number that was measured, and the place each document went to
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
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
from danlu.data.fate import DUPLICATE, KEPT, NOT_DRAWN, PARTS, TRAIN, VALIDATION, Fate, Index, stop_if_asked
from danlu.data.judge import Judge
from danlu.data.measured import SCORE, read_measured, score_names
from danlu.data.trim import Trimmer

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
    with ExitStack() as stack:
        splits = {
            place: stack.enter_context(ShardWriter(run.out, name, SCHEMA))
            for place, name in ((TRAIN, "train"), (VALIDATION, "validation"))
        }
        rejected = stack.enter_context(ShardWriter(run.out, "rejected", REJECTED_SCHEMA))
        numbers = stack.enter_context(ShardWriter(run.out, "scores", scores_schema, rows_per_file=1_000_000))
        for batch in read_measured(measured, [*COLUMNS, "detail", "size", *scores]):
            stop_if_asked(run)
            rows = slice(start, start + len(batch))
            where = fate.where[rows]
            shorter = batch if trimmer is None else _trimmed(batch, where, start, trimmer)
            places = np.full(len(batch), "", dtype=object)
            for place, writer in splits.items():
                mine = where == place
                kept = shorter.filter(pa.array(mine))
                places[mine] = writer.split
                writer.write_table(pa.Table.from_batches([kept.select(SCHEMA.names)]))
                books.keep(writer.split, kept)
            for i in np.flatnonzero(~np.isin(where, (*KEPT, NOT_DRAWN))).tolist():
                row = {name: batch[name][i].as_py() for name in COLUMNS}
                reason, detail = _reason(batch, i, start + i, row, index, fate, judge)
                rejected.write({**row, "reason": reason, "detail": detail})
                books.drop(row, reason, detail, batch["size"][i].as_py())
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


def _reason(
    batch: pa.RecordBatch, i: int, row_number: int, row: dict[str, str], index: Index, fate: Fate, judge: Judge
) -> tuple[str, str]:
    """Why a row is dropped; a duplicate's meta gets the id of the one that is kept."""
    place = int(fate.where[row_number])
    if place == PARTS:
        return DUPLICATE[place], "all of it is in other documents"
    if place in DUPLICATE:
        kept = index.name(int(fate.kept_instead[row_number]))
        similarity = round(float(fate.similarity[row_number]), 3)
        row["meta"] = _with(row["meta"], duplicate_of=kept, similarity=similarity)
        return DUPLICATE[place], f"of {kept}, similarity {similarity}"
    code = int(index.codes[row_number])
    return judge.reasons[code], batch["detail"][i].as_py() or judge.detail(code, batch, i)


def _scores(batch: pa.RecordBatch, places: NDArray[Any], shown: NDArray[np.bool_], scores: list[str]) -> pa.Table:
    columns = {"id": batch["id"], "place": pa.array(places.tolist(), pa.string())}
    return pa.table(columns | {name: batch[name] for name in scores}).filter(pa.array(shown))


def _with(meta: str, **more: Any) -> str:
    return json.dumps(json.loads(meta) | more, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
