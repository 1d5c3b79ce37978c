"""Columnar files: Parquet, and Arrow as a file (Feather) or as a stream (what Hugging Face `datasets` saves).

    parquet        row groups       cut between row groups; row 12 of the file is "#12"
    arrow file     record batches   cut between batches; row 12 of batch 3 is "#3.12"
    arrow stream   the same, found by hopping from message to message without reading their bodies

The footers of the first two say how many parts there are, not always where each begins. So part i of n is *counted*
as beginning at byte size * i / n: it decides which span a part belongs to, and nothing else.

An Arrow stream is a row of messages: ffffffff, the length of the metadata, the metadata (a flatbuffer), the body. Of
the flatbuffer two fields are needed, the kind of the message and the length of its body (Arrow columnar format,
section "Encapsulated message format").
"""

from __future__ import annotations

import functools
import io
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from danlu.data.formats.item import EXCERPT, Broken, Cut, Record
from danlu.data.formats.streams import Chained, Decompressed, read_all

_BATCH = 1024  # rows turned into Python values at a time
_SCHEMA, _RECORD_BATCH = 1, 3  # kinds of messages


def _seekable(stream: BinaryIO) -> tuple[BinaryIO, int]:
    """A stream that can be wound, and its size: both formats are read from their end."""
    if not _is_plain(stream):
        stream = io.BytesIO(read_all(stream))
    return stream, stream.seek(0, io.SEEK_END)


def _is_plain(stream: BinaryIO) -> bool:
    """Whether winding back costs nothing: a decompressing stream would start again from the beginning."""
    return stream.seekable() and not isinstance(stream, Decompressed)


def _counted(size: int, parts: int, wanted: list[int]) -> list[Cut]:
    begins = [size * i // parts for i in range(parts)]
    found = {bisect_left(begins, offset) for offset in wanted if offset > 0}
    return [(begins[i], 0) for i in sorted(found) if i < parts]


def _within(size: int, parts: int, start: int, end: int | None) -> list[int]:
    return [i for i in range(parts) if start <= size * i // parts and (end is None or size * i // parts < end)]


# ---- parquet ---------------------------------------------------------------------------------------------------


def read_parquet(stream: BinaryIO, start: int = 0, end: int | None = None, first: int = 0) -> Iterator[Record | Broken]:
    """The rows of the row groups that are counted as beginning in [start, end). A damaged group costs its own rows."""
    stream, size = _seekable(stream)
    with pq.ParquetFile(stream) as parquet:
        for group in _within(size, parquet.num_row_groups, start, end):
            before = row = sum(parquet.metadata.row_group(i).num_rows for i in range(group))
            try:
                for batch in parquet.iter_batches(batch_size=_BATCH, row_groups=[group]):
                    for record in _rows(batch):
                        yield f"#{row}", record
                        row += 1
            except (pa.ArrowException, OSError, ValueError) as error:
                yield Broken("unreadable", f"row group {group} from row {row}: {error}"[:EXCERPT], f"#{before}!")


def cut_parquet(stream: BinaryIO, wanted: list[int]) -> list[Cut]:
    stream, size = _seekable(stream)
    with pq.ParquetFile(stream) as parquet:
        return _counted(size, parquet.num_row_groups, wanted)


# ---- arrow -----------------------------------------------------------------------------------------------------


def read_arrow(stream: BinaryIO, start: int = 0, end: int | None = None, first: int = 0) -> Iterator[Record | Broken]:
    """The rows of the batches that begin in [start, end). A damaged batch costs its own rows."""
    magic = stream.read(6)
    seekable = _is_plain(stream)
    if seekable:
        stream.seek(0)
    else:
        stream = io.BufferedReader(Chained(magic, stream))
    if magic == b"ARROW1":
        batches = _file_batches(stream, start, end)
    elif seekable and _may_be_cut(stream):
        batches = _stream_batches(stream, start, end, first)
    else:
        batches = _in_order(stream)
    for number, load in batches:
        try:
            for row, record in enumerate(_rows(load())):
                yield f"#{number}.{row}", record
        except (pa.ArrowException, OSError, ValueError, EOFError) as error:
            yield Broken("unreadable", f"record batch {number}: {error}"[:EXCERPT], f"#{number}!")


def _file_batches(stream: BinaryIO, start: int, end: int | None) -> Iterator[tuple[int, Callable[[], Any]]]:
    stream, size = _seekable(stream)
    file = pa.ipc.open_file(stream)
    for number in _within(size, file.num_record_batches, start, end):
        yield number, functools.partial(file.get_batch, number)


def _in_order(stream: BinaryIO) -> Iterator[tuple[int, Callable[[], Any]]]:
    for number, batch in enumerate(pa.ipc.open_stream(stream)):
        yield number, functools.partial(_same, batch)


def _same(batch: Any) -> Any:
    return batch


def _stream_batches(
    stream: BinaryIO, start: int, end: int | None, first: int
) -> Iterator[tuple[int, Callable[[], Any]]]:
    schema = pa.ipc.read_schema(pa.ipc.read_message(stream))
    position, number = start or stream.tell(), first
    size = stream.seek(0, io.SEEK_END)
    while position < (size if end is None else end):
        stream.seek(position)
        kind, length = _header(stream)
        if kind != _RECORD_BATCH:
            return
        begin, position = position, stream.tell() + length
        stream.seek(begin)
        yield number, lambda: pa.ipc.read_record_batch(pa.ipc.read_message(stream), schema)
        number += 1


def _may_be_cut(stream: BinaryIO) -> bool:
    """Whether a stream has no dictionaries, which any batch may need. Looks at its first messages; winds back."""
    kinds = []
    for _ in range(2):
        kind, length = _header(stream)
        kinds.append(kind)
        stream.seek(length, io.SEEK_CUR)
    stream.seek(0)
    return kinds in ([_SCHEMA, _RECORD_BATCH], [_SCHEMA, 0])


def cut_arrow(stream: BinaryIO, wanted: list[int]) -> list[Cut]:
    if stream.read(6) == b"ARROW1":
        stream, size = _seekable(stream)
        return _counted(size, pa.ipc.open_file(stream).num_record_batches, wanted)
    stream.seek(0)
    if not _may_be_cut(stream):
        return []
    begins: list[int] = []
    size = stream.seek(0, io.SEEK_END)
    position = 0
    while position < size:
        stream.seek(position)
        kind, length = _header(stream)
        if kind == _RECORD_BATCH:
            begins.append(position)
        elif kind != _SCHEMA:
            break
        position = stream.tell() + length
    found = {bisect_left(begins, offset) for offset in wanted if offset > 0} - {0, len(begins)}
    return [(begins[i], i) for i in sorted(found)]


def _header(stream: BinaryIO) -> tuple[int, int]:
    """Kind of the next message and length of its body; the stream is left before that body. (0, 0) at the end."""
    head = stream.read(8)
    mark, length = struct.unpack("<Ii", head) if len(head) == 8 else (0, 0)
    metadata = stream.read(length) if mark == 0xFFFFFFFF and 0 < length < 1 << 26 else b""
    if len(metadata) < 8:
        return 0, 0
    try:
        table = struct.unpack_from("<I", metadata)[0]
        fields = table - struct.unpack_from("<i", metadata, table)[0]
        known = (struct.unpack_from("<H", metadata, fields)[0] - 4) // 2

        def field(number: int, form: str) -> int:
            offset = struct.unpack_from("<H", metadata, fields + 4 + 2 * number)[0] if number < known else 0
            return int(struct.unpack_from(form, metadata, table + offset)[0]) if offset else 0

        kind, body = field(1, "<B"), field(3, "<q")  # Message: version, header type, header, bodyLength
    except struct.error:
        return 0, 0
    return (kind, body) if body >= 0 else (0, 0)


def _rows(batch: Any) -> Iterator[Any]:
    """The rows of a batch as Python values. Damaged offsets would lead outside of its memory: it is checked first."""
    batch.validate(full=True)
    for offset in range(0, batch.num_rows, _BATCH):
        yield from batch.slice(offset, _BATCH).to_pylist()
