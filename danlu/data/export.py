"""A corpus for other tools: every split in the layout they read.

| format     | files                                            | read by                                            |
|------------|--------------------------------------------------|----------------------------------------------------|
| jsonl      | train-00000.jsonl.gz, one object a line          | everything                                         |
| parquet    | train-00000.parquet, columns as they are         | Hugging Face datasets, pandas, DuckDB              |
| tfrecord   | train-00000.tfrecord, one tf.train.Example a row | TensorFlow, tf.data, grain                         |
| webdataset | train-00000.tar, ID.txt and ID.json a row        | webdataset, torchdata                              |
| nanochat   | shard_00000.parquet, a column `text`             | nanochat, which validates on the last shard        |

What was rejected is not exported. The same corpus gives the same bytes: no clock and no name of a user goes into them.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from danlu.core.errors import UserError, need, suggest
from danlu.data.document import SCHEMA, Document, ShardWriter, read_documents

SPLITS = ("train", "validation")
ROWS_PER_FILE = 50_000
_NANOCHAT_GROUP = 1_024  # rows of a row group: what one of its readers takes at a time
_NANOCHAT_SHARD = 64 * _NANOCHAT_GROUP


def export_corpus(corpus: Path, target: Path, to: str, *, rows_per_file: int = ROWS_PER_FILE) -> dict[str, int]:
    """Write the splits of a corpus into the empty folder `target`; returns the number of rows by split.

    Raises UserError for a format that is not in the table, or a corpus without documents.
    """
    if to not in FORMATS:
        raise UserError(f'a corpus cannot be exported to "{to}"', suggest(to, FORMATS))
    counts = {}
    for split in SPLITS:
        counts[split] = FORMATS[to](read_documents(corpus, split), target, split, rows_per_file)
    if not any(counts.values()):
        raise UserError("the corpus holds no documents to export", "see its report.html for what was dropped")
    return counts


def _files(documents: Iterator[Document], rows: int) -> Iterator[tuple[int, Iterator[Document]]]:
    """(number, documents) of each file to be."""
    for number in range(1 << 30):
        first = next(documents, None)
        if first is None:
            return
        rest = islice(documents, rows - 1)
        yield number, _chain(first, rest)
        for _ in rest:  # what a writer left lying would begin the next file
            raise AssertionError("a writer must take all its rows")


def _chain(first: Document, rest: Iterator[Document]) -> Iterator[Document]:
    yield first
    yield from rest


# ---- jsonl, parquet --------------------------------------------------------------------------------------------


def _jsonl(documents: Iterator[Document], target: Path, split: str, rows: int) -> int:
    count = 0
    for number, some in _files(documents, rows):
        with open(target / f"{split}-{number:05d}.jsonl.gz", "wb") as raw:
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                for document in some:
                    row = {**document.row(), "meta": document.meta}
                    packed.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                    count += 1
    return count


def _parquet(documents: Iterator[Document], target: Path, split: str, rows: int) -> int:
    with ShardWriter(target, split, SCHEMA, rows) as writer:
        for document in documents:
            writer.write(document.row())
    return writer.rows


# ---- TFRecord --------------------------------------------------------------------------------------------------


def _tfrecord(documents: Iterator[Document], target: Path, split: str, rows: int) -> int:
    """Records of TensorFlow's framing: length, its checksum, the bytes, their checksum (tensorflow/core/lib/io)."""
    crc = need("google_crc32c", "tfrecord").value

    def masked(data: bytes) -> bytes:
        value = crc(data)
        return struct.pack("<I", (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    count = 0
    for number, some in _files(documents, rows):
        with open(target / f"{split}-{number:05d}.tfrecord", "wb") as out:
            for document in some:
                data = example({name: value.encode("utf-8", "replace") for name, value in document.row().items()})
                length = struct.pack("<Q", len(data))
                out.write(length + masked(length) + data + masked(data))
                count += 1
    return count


def example(features: dict[str, bytes]) -> bytes:
    """A tf.train.Example of byte strings in protobuf's wire format, names in order.

    Example { Features features = 1 }, Features { map<string, Feature> feature = 1 },
    Feature { BytesList bytes_list = 1 }, BytesList { repeated bytes value = 1 }: nothing but messages in field 1, and
    a map entry has key 1 and value 2.

    >>> example({"a": b"x"}).hex()
    '0a0c0a0a0a016112050a030a0178'
    """
    entries = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, _field(1, _field(1, value))))
        for name, value in sorted(features.items())
    )
    return _field(1, entries)


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    length, head = len(data), bytearray([number << 3 | 2])
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + data


# ---- WebDataset ------------------------------------------------------------------------------------------------


def _webdataset(documents: Iterator[Document], target: Path, split: str, rows: int) -> int:
    count = 0
    for number, some in _files(documents, rows):
        with tarfile.open(target / f"{split}-{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for document in some:
                row: dict[str, Any] = {**document.row(), "meta": document.meta}
                text = row.pop("text")
                _add(archive, f"{document.id}.txt", text.encode("utf-8", "replace"))
                _add(archive, f"{document.id}.json", json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
                count += 1
    return count


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # mtime 0, no owner
    member.size, member.mode = len(data), 0o644
    archive.addfile(member, io.BytesIO(data))


# ---- nanochat --------------------------------------------------------------------------------------------------


def _nanochat(documents: Iterator[Document], target: Path, split: str, rows: int) -> int:
    """Shards of one column; validation comes after train, so its documents are the last shard."""
    start, count = len(list(target.glob("shard_*.parquet"))), 0
    shard = _NANOCHAT_SHARD if split == "train" else 1 << 30
    for number, some in _files(documents, shard):
        with pq.ParquetWriter(
            target / f"shard_{start + number:05d}.parquet", pa.schema([("text", pa.string())])
        ) as out:
            while group := [document.text for document in islice(some, _NANOCHAT_GROUP)]:
                out.write_table(pa.table({"text": group}))
                count += len(group)
    return count


FORMATS: dict[str, Callable[[Iterator[Document], Path, str, int], int]] = {
    "jsonl": _jsonl,
    "parquet": _parquet,
    "tfrecord": _tfrecord,
    "webdataset": _webdataset,
    "nanochat": _nanochat,
}
