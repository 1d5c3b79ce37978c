"""Bytes of a file: on a disk or in an object store, compressed or not.

    book.txt   rows.jsonl.gz   rows.jsonl.zst   dump.xml.bz2   s3://bucket/rows.jsonl.xz   memory://a.txt

Everything that is read whole goes through `read_all`, which stops at a limit: a few kilobytes of gzip can hold
gigabytes of zeros.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa

COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
MAX_WHOLE = 1 << 30  # bytes of a file that has to be held in memory at once
_CHUNK = 1 << 20
STREAM_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)


class TooLargeError(ValueError):
    """A file that must be held in memory is larger than anybody's memory should allow."""


def is_url(path: Path | str) -> bool:
    return isinstance(path, str) and "://" in path


def file_name(path: Path | str) -> str:
    """The last part of a path or URL."""
    return PurePosixPath(str(path).replace("\\", "/")).name


def suffixes_of(path: Path | str) -> list[str]:
    """The endings of a name in lower case: "a.B.GZ" -> [".b", ".gz"]."""
    return [suffix.lower() for suffix in PurePosixPath(file_name(path)).suffixes]


def open_raw(path: Path | str) -> BinaryIO:
    """Open a path or an fsspec URL for reading, as it is stored."""
    if isinstance(path, str) and is_url(path):
        import fsspec

        return fsspec.open(path, "rb").open()
    return Path(path).open("rb")


def open_bytes(path: Path | str) -> BinaryIO:
    """Open a file for reading, decompressing .gz, .zst, .bz2 and .xz on the way."""
    suffix = (suffixes_of(path) or [""])[-1]
    return decompressed(open_raw(path), suffix)


def decompressed(stream: BinaryIO, suffix: str) -> BinaryIO:
    """The decompressed content of a stream whose name ends in `suffix`; other streams are given back as they are."""
    if suffix in (".gz", ".tgz"):
        return Decompressed(gzip.GzipFile(fileobj=stream), stream)
    if suffix == ".bz2":
        return Decompressed(bz2.BZ2File(stream), stream)
    if suffix == ".xz":
        return Decompressed(lzma.LZMAFile(stream), stream)
    if suffix == ".zst":
        return Decompressed(_ZstdFile(stream), stream)
    return stream


def read_all(stream: BinaryIO, limit: int = MAX_WHOLE) -> bytes:
    """The rest of a stream. Raises TooLargeError beyond `limit` bytes."""
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise TooLargeError(f"more than {limit} bytes, and this format is read whole")
    return data


def find_bytes(stream: BinaryIO, offset: int, pattern: bytes) -> Iterator[int]:
    """Offsets of a byte pattern from `offset` on; whoever asks may move the stream between two of them."""
    base, tail = offset, b""
    while True:
        stream.seek(base + len(tail))
        chunk = stream.read(_CHUNK)
        if not chunk:
            return
        data = tail + chunk
        at = data.find(pattern)
        while at >= 0:
            yield base + at
            at = data.find(pattern, at + 1)
        tail = data[len(data) - len(pattern) + 1 :] if len(pattern) > 1 else b""
        base += len(data) - len(tail)


class Slice(io.RawIOBase):
    """The bytes [start, end) of a stream, as a stream of their own. With `start` None both count from where it is."""

    def __init__(self, stream: BinaryIO, start: int | None, end: int | None) -> None:
        if start is not None:
            stream.seek(start)
        self._stream, self._left = stream, None if end is None else max(0, end - (start or 0))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer) if self._left is None else min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left = None if self._left is None else self._left - len(data)
        return len(data)


class Chained(io.RawIOBase):
    """Bytes already read, followed by the stream they came from: for looking ahead where one cannot wind back."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = memoryview(head), stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._head:
            data: Any = self._head[: len(buffer)]
            self._head = self._head[len(data) :]
        else:
            data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Decompressed(io.BufferedReader):
    """A decompressing stream that closes the file below it too."""

    def __init__(self, raw: Any, below: BinaryIO) -> None:
        super().__init__(raw)
        self._below = below

    def close(self) -> None:
        super().close()
        self._below.close()


class _ZstdFile(io.RawIOBase):
    """A zstd file as a raw stream, on the decompressor that pyarrow brings along."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
