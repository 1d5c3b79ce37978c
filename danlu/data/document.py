"""A document: one row of a corpus, from the source to the token shard.

A corpus is a directory of Parquet files, readable by anything that reads Parquet:

    train-00000.parquet  validation-00000.parquet  rejected-00000.parquet  report.json

| column   | type   | example                                                              |
|----------|--------|----------------------------------------------------------------------|
| id       | string | "9f86d081884c7d65": hash of source, path and original content        |
| text     | string | the cleaned text                                                     |
| language | string | "zh", "en", "code:python", "other"                                   |
| source   | string | "python:stdlib"                                                      |
| licence  | string | "PSF-2.0"                                                            |
| meta     | string | JSON object: {"path": "argparse.py", "title": "..."}                 |
| reason   | string | only in rejected-*: why it was dropped, e.g. "quality:too_short"     |
| detail   | string | only in rejected-*: more about it, e.g. "3 < 8"                      |

The same rows give the same bytes: files hold no time and no host name, and rows keep the order they were written
in. The id survives every stage, so a range of tokens leads back to the file it came from.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError

COLUMNS = ("id", "text", "language", "source", "licence", "meta")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
REJECTED_SCHEMA = SCHEMA.append(pa.field("reason", pa.string())).append(pa.field("detail", pa.string()))

ROWS_PER_FILE = 200_000
_ROWS_PER_WRITE = 4_096  # one Parquet row group; bounds the memory of a writer and of a reader
_BYTES_PER_WRITE = 16_000_000


@dataclass(frozen=True)
class Document:
    """One document. `meta` holds whatever else the source knew (path, title, author): JSON values only."""

    id: str
    text: str
    language: str
    source: str
    licence: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, str]:
        """The Parquet row: `meta` as JSON with sorted keys, so that equal documents are equal bytes."""
        meta = json.dumps(self.meta, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return {
            "id": self.id,
            "text": self.text,
            "language": self.language,
            "source": self.source,
            "licence": self.licence,
            "meta": meta,
        }


def document_id(source: str, path: str, text: str) -> str:
    """A stable name: 16 hex digits over source, path and original content.

    The same file read twice gives the same id; an edited file gives another.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (source, path, text):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))  # lengths keep ("ab", "c") and ("a", "bc") apart
        digest.update(data)
    return digest.hexdigest()


def read_documents(corpus: Artifact | Path | str, split: str = "train") -> Iterator[Document]:
    """Yield the documents of a split in stored order, one row group in memory at a time.

    A corpus without held-out documents has no validation files: then nothing is yielded.
    Raises UserError when the directory holds no such corpus or a file of it is damaged.
    """
    for row in read_parquet(corpus, split, COLUMNS):
        yield Document(**{**row, "meta": json.loads(row["meta"] or "{}")})


def batched(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    """Lists of `size` documents, the last one shorter."""
    iterator = iter(documents)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def write_documents(
    directory: Path, split: str, documents: Iterable[Document], rows_per_file: int = ROWS_PER_FILE
) -> int:
    """Write a split into `directory`; returns the number of documents. No documents, no file."""
    with ShardWriter(directory, split, SCHEMA, rows_per_file) as writer:
        for document in documents:
            writer.write(document.row())
    return writer.rows


def read_parquet(corpus: Artifact | Path | str, split: str, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield rows of SPLIT-*.parquet as dicts: the reading half shared by corpora and datasets."""
    wanted = list(columns)
    for file in split_files(corpus.path if isinstance(corpus, Artifact) else Path(corpus), split):
        try:
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(batch_size=_ROWS_PER_WRITE, columns=wanted):
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise damaged(file, error) from None


def split_files(directory: Path, split: str) -> list[Path]:
    """SPLIT-*.parquet in order. Raises UserError when the directory holds no rows of any split."""
    files = sorted(directory.glob(f"{split}-*.parquet"))
    if not files and not any(directory.glob("*.parquet")):
        raise UserError(f"{directory.name} holds no documents", "a corpus or dataset has files train-*.parquet")
    return files


def damaged(file: Path, error: Exception) -> UserError:
    return UserError(f"{file.name} cannot be read ({error})", "the file is damaged; build it again")


class ShardWriter:
    """Writes rows to SPLIT-00000.parquet, SPLIT-00001.parquet, ... in constant memory.

    Several writers can be open at once (train, validation, rejected): rows are routed as they come.
    """

    def __init__(self, directory: Path, split: str, schema: pa.Schema, rows_per_file: int = ROWS_PER_FILE) -> None:
        self.directory, self.split, self.schema, self.rows_per_file = directory, split, schema, rows_per_file
        self.rows = 0
        self._rows_in_file = 0
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._files = 0

    def write(self, row: dict[str, Any]) -> None:
        self._pending.append(row)
        self._pending_bytes += len(row.get("text", ""))
        self.rows += 1
        file_is_full = self._rows_in_file + len(self._pending) >= self.rows_per_file
        if file_is_full or len(self._pending) >= _ROWS_PER_WRITE or self._pending_bytes >= _BYTES_PER_WRITE:
            self._flush()
        if file_is_full:
            self._close_file()

    def write_table(self, table: pa.Table) -> None:
        """Write many rows at once, as they lie in memory; columns beyond the schema are left out."""
        self._flush()
        table = table.select(self.schema.names).cast(self.schema)
        self.rows += len(table)
        while len(table):
            part = table.slice(0, self.rows_per_file - self._rows_in_file)
            table = table.slice(len(part))
            self._append(part)
            if self._rows_in_file >= self.rows_per_file:
                self._close_file()

    def _flush(self) -> None:
        if self._pending:
            self._append(pa.Table.from_pylist(self._pending, schema=self.schema))
            self._pending, self._pending_bytes = [], 0

    def _append(self, table: pa.Table) -> None:
        if self._writer is None:
            path = self.directory / f"{self.split}-{self._files:05d}.parquet"
            self._writer = pq.ParquetWriter(path, self.schema, compression="zstd")
        self._writer.write_table(table)
        self._rows_in_file += len(table)

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._files += 1
            self._rows_in_file = 0

    def close(self) -> None:
        self._flush()
        self._close_file()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
