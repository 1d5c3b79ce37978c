"""Why was this document dropped, or why was it kept: the question everybody asks of a corpus.

A query is an id (or its beginning), a path as the source names it, or words of the text. What is found comes with the
place it went to, the reason and its detail, and every number that was measured about it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from danlu.core.errors import UserError
from danlu.data.document import COLUMNS
from danlu.data.measured import SCORE

_ID = re.compile("[0-9a-f]{6,16}")
_BATCH = 4_096


@dataclass(frozen=True)
class Found:
    """One document that answers the query. `place` is "train", "validation" or "rejected"."""

    id: str
    place: str
    reason: str
    detail: str
    path: str
    duplicate_of: str
    text: str
    scores: dict[str, float]

    def sentence(self) -> str:
        """What happened to it, in words."""
        if self.place != "rejected":
            return f"{self.id} ({self.path}) was kept: {self.place}"
        more = f" ({self.detail})" if self.detail else ""
        return f"{self.id} ({self.path}) was dropped: {self.reason}{more}"


def explain(corpus: Path, query: str, limit: int = 10) -> list[Found]:
    """The documents of a corpus that a query means, dropped ones first; at most `limit`.

    Raises UserError when the folder is no corpus or the query is empty.
    """
    if not query.strip():
        raise UserError("say which document: an id, a path, or words of its text")
    if not list(corpus.glob("train-*.parquet")) and not list(corpus.glob("rejected-*.parquet")):
        raise UserError(f"{corpus.name} is no corpus", "it has no train-*.parquet")
    rows = [row for split in ("rejected", "train", "validation") for row in _matching(corpus, split, query, limit)]
    rows = rows[:limit]
    scores = _scores(corpus, [row["id"] for row in rows])
    return [_found(row, scores.get(row["id"], {})) for row in rows]


def _matching(corpus: Path, split: str, query: str, limit: int) -> Iterator[dict[str, Any]]:
    for file in sorted(corpus.glob(f"{split}-*.parquet")):
        with pq.ParquetFile(file) as parquet:
            names = [name for name in (*COLUMNS, "reason", "detail") if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_size=_BATCH, columns=names):
                for row in batch.filter(_matches(batch, query)).slice(0, limit).to_pylist():
                    yield {**row, "split": split}


def _matches(batch: pa.RecordBatch, query: str) -> pa.Array:
    in_meta = pc.match_substring(batch["meta"], json.dumps(query, ensure_ascii=False)[1:-1])
    found = pc.or_(in_meta, pc.match_substring(batch["text"], query))
    return pc.or_(found, pc.starts_with(batch["id"], query)) if _ID.fullmatch(query) else found


def _scores(corpus: Path, ids: list[str]) -> dict[str, dict[str, float]]:
    wanted = pa.array(ids, pa.string())
    found: dict[str, dict[str, float]] = {}
    for file in sorted(corpus.glob("scores-*.parquet")) if ids else []:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=1 << 16):
                for row in batch.filter(pc.is_in(batch["id"], wanted)).to_pylist():
                    found[row["id"]] = {
                        name.removeprefix(SCORE): value
                        for name, value in row.items()
                        if name.startswith(SCORE) and value is not None
                    }
    return found


def _found(row: dict[str, Any], scores: dict[str, float]) -> Found:
    meta = json.loads(row["meta"] or "{}")
    return Found(
        id=row["id"],
        place=row["split"],
        reason=row.get("reason") or "",
        detail=row.get("detail") or "",
        path=str(meta.get("path", "")),
        duplicate_of=str(meta.get("duplicate_of", "")),
        text=row["text"],
        scores=scores,
    )
