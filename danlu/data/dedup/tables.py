"""Signatures as they lie: tables of uint32 [D, 128] in memory or in files, read as if they were one.

    position   0 ... D0-1   D0 ... D0+D1-1   ...
    table      first        second           ...

A file `signatures.u32` holds rows of 512 bytes, little-endian, nothing else. Files are read, a block or a row at a
time, and not mapped: pages of a mapped file count as memory of the process, and nobody can say how many come with one
that is looked at (Linux brings in neighbours, up to 2 MiB). The system keeps in its cache what there is room for.

A document without units has no signature: its row holds one value 128 times (0, or the largest number, where a
minimum was taken over nothing), which no document with units can have. It is like nothing else, not even like its
equals.

Documents are numbered in the order of their ids, whatever order they were read in: `number` gives rank -> position.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import StageFailed, UserError
from danlu.data.dedup.minhash import PERMUTATIONS
from danlu.data.dedup.spill import Spill

ROW_BYTES = PERMUTATIONS * 4
BLOCK = 1 << 14  # rows looked at together: 8 MB


class Tables:
    """Several tables of signatures as one. Raises UserError for a file that is no whole number of rows.

    arrays  the tables in memory; None for those in files
    files   descriptors of the open files; -1 for those in memory
    counts  rows of each
    """

    def __init__(self, tables: Sequence[NDArray[np.uint32] | Path]) -> None:
        self.arrays: list[NDArray[np.uint32] | None] = []
        self.files: list[int] = []
        self.counts: list[int] = []
        for table in tables:
            if isinstance(table, Path):
                self.counts.append(_count_rows(table))
                self.arrays.append(None)
                self.files.append(os.open(table, os.O_RDONLY))
            else:
                array = np.ascontiguousarray(table, dtype=np.uint32)
                if array.ndim != 2 or array.shape[1] != PERMUTATIONS:
                    raise UserError(f"signatures of shape {array.shape}", f"they must be [D, {PERMUTATIONS}]")
                self.counts.append(len(array))
                self.arrays.append(array)
                self.files.append(-1)
        self.starts = np.cumsum([0, *self.counts])
        if len(self) >= 1 << 32:
            raise UserError(f"{len(self)} documents are too many", "at most 2^32 - 1 can be compared at once")

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __del__(self) -> None:
        for file in getattr(self, "files", []):
            if file >= 0:
                os.close(file)

    def blocks(self, rows: int = BLOCK) -> Iterator[tuple[int, NDArray[np.uint32]]]:
        """Yield (position of the first row, uint32 [<= rows, 128]) from first to last."""
        for table, (count, start) in enumerate(zip(self.counts, self.starts.tolist(), strict=False)):
            for begin in range(0, count, rows):
                yield start + begin, self._read(table, begin, min(rows, count - begin))

    def row(self, position: int) -> NDArray[np.uint32]:
        """uint32 [128]"""
        table = int(np.searchsorted(self.starts, position, side="right")) - 1
        return self._read(table, position - int(self.starts[table]), 1)[0]

    def _read(self, table: int, begin: int, count: int) -> NDArray[np.uint32]:
        array = self.arrays[table]
        if array is not None:
            return array[begin : begin + count]
        data = os.pread(self.files[table], count * ROW_BYTES, begin * ROW_BYTES)
        if len(data) != count * ROW_BYTES:
            raise StageFailed("a file of signatures became shorter while it was read", "build it again")
        return np.frombuffer(data, dtype="<u4").reshape(-1, PERMUTATIONS)

    def fingerprint(self) -> str:
        """Of the sizes and of about 4,096 rows: enough to notice that work begun belongs to other signatures."""
        crc = 0
        for table, count in enumerate(self.counts):
            for begin in range(0, count, max(1, count // 4096)):
                crc = zlib.crc32(self._read(table, begin, 1).tobytes(), crc)
        return f"{self.counts}-{crc:08x}"


def _count_rows(path: Path) -> int:
    size = path.stat().st_size
    if size % ROW_BYTES:
        raise UserError(
            f"{path.name} has {size} bytes, which is no whole number of signatures of {ROW_BYTES}",
            "it was cut off while it was written; build it again",
        )
    return size // ROW_BYTES


def without_units(rows: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """bool [N]: rows of documents that have no units."""
    first = rows[:, 0]
    suspect = (first == 0) | (first == 2**32 - 1)
    suspect[suspect] = (rows[suspect] == first[suspect, None]).all(axis=1)
    return suspect


# ---- the order of documents ----------------------------------------------------------------------------------------


def id_keys(ids: Iterable[str]) -> NDArray[np.uint64]:
    """uint64 [D] that sort as the ids do where all are 16 hex digits (as `danlu.data.document` makes them).

    Another id counts by its hash: any fixed order will do, as long as it is a function of the ids alone.
    """
    return np.fromiter(map(_id_key, ids), dtype=np.uint64)


def _id_key(name: str) -> int:
    if len(name) == 16 and name.isascii() and name.isalnum() and name == name.lower():
        try:
            return int(name, 16)
        except ValueError:
            pass
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def number(keys: NDArray[np.uint64], work: Path, memory_bytes: int, guarded: int = 0) -> NDArray[np.uint32]:
    """uint32 [D], rank -> position: documents in the order of their keys, the first `guarded` ones before all others.

    Equal keys keep their order. Where that many keys cannot be sorted in memory they are sorted in spill files, and
    what is returned is mapped from `work`/order.u32.
    """
    count = len(keys)
    if count * 40 <= memory_bytes:
        outside = np.arange(count) >= guarded
        return np.lexsort((keys, outside)).astype(np.uint32)
    target = work / "order.u32"
    order = np.memmap(target, dtype=np.uint32, mode="w+", shape=(count,))
    filled = 0
    for begin, end in ((0, guarded), (guarded, count)):
        spill = Spill(work, f"order{begin > 0:d}", 3, end - begin, memory_bytes)
        for start in range(begin, end, 1 << 16):
            stop = min(start + (1 << 16), end)
            spill.add(records(np.asarray(keys[start:stop]), np.arange(start, stop, dtype=np.uint32)))
        spill.commit()
        for piece in spill.ascending():
            order[filled : filled + len(piece)] = piece[:, 2]
            filled += len(piece)
        spill.remove()
    order.flush()
    return np.memmap(target, dtype=np.uint32, mode="r", shape=(count,))


def records(keys: NDArray[np.uint64], *words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """uint64 [N] and uint32 [N] each -> uint32 [N, 2 + words]: records that sort by key, then by the words."""
    out = np.empty((len(keys), 2 + len(words)), dtype=np.uint32)
    out[:, 0] = keys >> np.uint64(32)
    out[:, 1] = keys & np.uint64(0xFFFFFFFF)
    for column, word in enumerate(words, start=2):
        out[:, column] = word
    return out
