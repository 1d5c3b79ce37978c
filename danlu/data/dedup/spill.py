"""Spill files: more records than memory holds, sorted all the same.

A record is W unsigned 32-bit words, most significant first, the first ones a hash. Records are appended to one of
several files by the range their first word falls into; when they are read back, each file is sorted by itself, and
the files one after the other are the whole in ascending order.

    NAME-00of04.spill      word 0 in [0, 2^30)          rows uint32 [N, W], then 24 bytes:
    NAME-01of04.spill      word 0 in [2^30, 2^31)       magic "danlu-S1", width W, CRC-32, N
    ...

A file that is larger than memory allows, because many records share their first words (a line that is on every page),
is split again by whatever word differs first, down to records that are equal. So the order of records is a function
of the records alone: neither the memory allowed nor the number of files shows in it.

A file is written as NAME.part and renamed when its end has been written. Reading checks the length first and the CRC
at the end; `DamagedSpill` says which file and what is wrong with it, and whoever asked builds it again. So nothing
waits for the disk: what a power cut took is noticed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import StageFailed
from danlu.data.dedup.native import sort_records

_END = np.dtype([("magic", "S8"), ("width", "<u4"), ("crc", "<u4"), ("count", "<u8")])
_MAGIC = b"danlu-S1"
_ROWS = 1 << 16  # read and written at once
_MOST_PARTS = 64  # files a split makes at once


class DamagedSpill(StageFailed):
    """A spill file is shorter than it says, was changed, or is no spill file."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path.name} is damaged ({why})", "run again: it is built anew from what came before it")
        self.path = path


class SpillWriter:
    """Appends records to one file. Between writes nothing is open, so that hundreds of writers are no burden."""

    def __init__(self, path: Path, width: int) -> None:
        self.path, self.width = path, width
        self.count = 0
        self._crc = 0
        self._part = path.with_name(path.name + ".part")
        self._part.parent.mkdir(parents=True, exist_ok=True)
        self._part.write_bytes(b"")

    def write(self, records: NDArray[np.uint32]) -> None:
        """Append uint32 [N, width]."""
        assert records.ndim == 2 and records.shape[1] == self.width
        if not len(records):
            return
        data = np.ascontiguousarray(records, dtype="<u4").data
        self._crc = zlib.crc32(data, self._crc)
        with self._part.open("ab", buffering=0) as file:
            rest = memoryview(data).cast("B")
            while len(rest):
                rest = rest[file.write(rest) :]
        self.count += len(records)

    def commit(self) -> None:
        """Write the end and give the file its name."""
        with self._part.open("ab") as file:
            file.write(np.array((_MAGIC, self.width, self._crc, self.count), dtype=_END).tobytes())
        os.replace(self._part, self.path)


def count_records(path: Path, width: int) -> int:
    """How many records the file holds, by its end and its length. Raises DamagedSpill where they do not agree."""
    size = path.stat().st_size
    if size < _END.itemsize:
        raise DamagedSpill(path, f"{size} bytes are not even its end")
    with path.open("rb") as file:
        file.seek(-_END.itemsize, os.SEEK_END)
        end = np.frombuffer(file.read(), dtype=_END)[0]
    if bytes(end["magic"]) != _MAGIC:
        raise DamagedSpill(path, "it has no end: it was cut off")
    if int(end["width"]) != width:
        raise DamagedSpill(path, f"records of {int(end['width'])} words instead of {width}")
    if size != int(end["count"]) * 4 * width + _END.itemsize:
        raise DamagedSpill(path, f"{size} bytes cannot be {int(end['count'])} records")
    return int(end["count"])


def read_spill(path: Path, width: int, rows: int = _ROWS) -> Iterator[NDArray[np.uint32]]:
    """Yield uint32 [<= rows, width] in the order written. Raises DamagedSpill, for a wrong CRC after the last one."""
    left, crc = count_records(path, width), 0
    with path.open("rb") as file:
        while left:
            take = min(left, rows)
            records = np.fromfile(file, dtype="<u4", count=take * width).reshape(-1, width)
            if len(records) < take:
                raise DamagedSpill(path, "it became shorter while it was read")
            crc = zlib.crc32(records.data, crc)
            left -= take
            yield records
        end = np.fromfile(file, dtype=_END, count=1)
    if len(end) != 1 or int(end[0]["crc"]) != crc:
        raise DamagedSpill(path, "its checksum is another")


class Spill:
    """Records of one kind, in files by ranges of their first word, to be read in ascending order.

    `records` is how many are expected (a guess is enough), `memory_bytes` what one sorted piece may take; both decide
    only how many files there are.
    """

    def __init__(self, folder: Path, name: str, width: int, records: int, memory_bytes: int) -> None:
        self.width, self.memory_bytes = width, memory_bytes
        wanted = -(-records * width * 4 * 5 // (4 * piece_bytes(memory_bytes)))
        parts = max(1, min(_MOST_PARTS, wanted))
        self.paths = [folder / f"{name}-{part:02d}of{parts:02d}.spill" for part in range(parts)]
        self._writers: list[SpillWriter] = []

    def whole(self) -> bool:
        """True when all files are there and as long as they say."""
        try:
            return all(count_records(path, self.width) >= 0 for path in self.paths)
        except (OSError, DamagedSpill):
            return False

    def add(self, records: NDArray[np.uint32]) -> None:
        """Append uint32 [N, width]; the first word should be spread evenly over its range."""
        if not self._writers:
            self._writers = [SpillWriter(path, self.width) for path in self.paths]
        if len(self._writers) == 1:
            self._writers[0].write(records)
            return
        part = (records[:, 0].astype(np.uint64) * np.uint64(len(self._writers))) >> np.uint64(32)
        by_part = np.argsort(part.astype(np.uint8), kind="stable")
        ends = np.cumsum(np.bincount(part.astype(np.int64), minlength=len(self._writers)))
        for writer, piece in zip(self._writers, np.split(by_part, ends[:-1]), strict=True):
            writer.write(records[piece])

    def commit(self) -> None:
        if not self._writers:
            self._writers = [SpillWriter(path, self.width) for path in self.paths]
        for writer in self._writers:
            writer.commit()
        self._writers = []

    def ascending(self) -> Iterator[NDArray[np.uint32]]:
        """Yield all records, sorted, in pieces within the memory allowed. Raises DamagedSpill."""
        for path in self.paths:
            yield from _ascending(path, self.width, self.memory_bytes)

    def remove(self) -> None:
        for path in self.paths:
            path.unlink(missing_ok=True)


def piece_bytes(memory_bytes: int) -> int:
    """How large a piece may be that is sorted in `memory_bytes`: numpy's way needs its indices and a copy."""
    return max(memory_bytes // 4, 4096)


def _ascending(path: Path, width: int, memory_bytes: int, word: int = 0) -> Iterator[NDArray[np.uint32]]:
    count = count_records(path, width)
    if count * width * 4 <= piece_bytes(memory_bytes):
        for records in read_spill(path, width, rows=max(count, 1)):
            yield sort_records(records)
        return
    low = np.full(width, 2**32 - 1, dtype=np.uint32)
    high = np.zeros(width, dtype=np.uint32)
    for records in read_spill(path, width):
        np.minimum(low, records.min(axis=0), out=low)
        np.maximum(high, records.max(axis=0), out=high)
    while word < width and low[word] == high[word]:
        word += 1
    if word == width:  # all equal: any order is ascending
        yield from read_spill(path, width)
        return
    parts = min(_MOST_PARTS, 1 + count * width * 4 * 3 // (2 * piece_bytes(memory_bytes)))
    bottom, span = int(low[word]), int(high[word]) - int(low[word]) + 1
    writers = [SpillWriter(path.with_name(f"{path.stem}.{part:02d}.spill"), width) for part in range(parts)]
    for records in read_spill(path, width):
        part = (records[:, word].astype(np.uint64) - np.uint64(bottom)) * np.uint64(parts) // np.uint64(span)
        for number in np.unique(part).tolist():
            writers[number].write(records[part == number])
    for writer in writers:
        writer.commit()
    for writer in writers:
        yield from _ascending(writer.path, width, memory_bytes, word)
        writer.path.unlink()
