"""Signatures as they lie: tables of uint32 [D, 128] in memory or in files, read as if they were one.

    position   0 ... D0-1   D0 ... D0+D1-1   ...
    table      first        second           ...

A file `signatures.u32` holds rows of 512 bytes, little-endian, nothing else. Files are mapped, not read: what was
looked at is let go again (`forget`), so that the memory of this process stays bounded while the system keeps in its
cache what there is room for.

A document without units has no signature: its row holds one value 128 times (0, or the largest number, where a
minimum was taken over nothing), which no document with units can have. It is like nothing else, not even like its
equals.

Documents are numbered in the order of their ids, whatever order they were read in: `number` gives rank -> position.
"""

from __future__ import annotations

import hashlib
import mmap
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import UserError
from danlu.data.dedup.minhash import PERMUTATIONS
from danlu.data.dedup.spill import Spill

ROW_BYTES = PERMUTATIONS * 4
BLOCK = 1 << 14  # rows looked at together: 8 MB


class Tables:
    """Several tables of signatures as one. Raises UserError for a file that is no whole number of rows."""

    def __init__(self, tables: Sequence[NDArray[np.uint32] | Path]) -> None:
        self.arrays: list[NDArray[np.uint32]] = []
        self.maps: list[mmap.mmap | None] = []
        for table in tables:
            mapped = _map(table) if isinstance(table, Path) else None
            if isinstance(table, Path):
                array = np.frombuffer(mapped, dtype="<u4") if mapped is not None else np.empty(0, np.uint32)
                array = array.reshape(-1, PERMUTATIONS)
            else:
                array = np.ascontiguousarray(table, dtype=np.uint32)
                if array.ndim != 2 or array.shape[1] != PERMUTATIONS:
                    raise UserError(f"signatures of shape {array.shape}", f"they must be [D, {PERMUTATIONS}]")
            self.arrays.append(array)
            self.maps.append(mapped)
        self.starts = np.cumsum([0, *map(len, self.arrays)])
        if len(self) >= 1 << 32:
            raise UserError(f"{len(self)} documents are too many", "at most 2^32 - 1 can be compared at once")

    def __len__(self) -> int:
        return int(self.starts[-1])

    def blocks(self, rows: int = BLOCK) -> Iterator[tuple[int, NDArray[np.uint32]]]:
        """Yield (position of the first row, uint32 [<= rows, 128]) from first to last, letting go what was read."""
        for array, start in zip(self.arrays, self.starts.tolist(), strict=False):
            for begin in range(0, len(array), rows):
                yield start + begin, array[begin : begin + rows]
                if begin // rows % 4 == 3:
                    self.forget()
        self.forget()

    def row(self, position: int) -> NDArray[np.uint32]:
        table = int(np.searchsorted(self.starts, position, side="right")) - 1
        found: NDArray[np.uint32] = self.arrays[table][position - int(self.starts[table])]
        return found

    def forget(self) -> None:
        """Let go the pages of mapped files. They stay in the system's cache as long as there is room."""
        for mapped in self.maps:
            if mapped is not None:
                mapped.madvise(mmap.MADV_DONTNEED)

    def at_random(self, yes: bool) -> None:
        """Tell the system whether rows are looked at one by one or in order: it reads ahead only in order."""
        for mapped in self.maps:
            if mapped is not None:
                mapped.madvise(mmap.MADV_RANDOM if yes else mmap.MADV_SEQUENTIAL)

    def fingerprint(self) -> str:
        """Of the sizes and of about 4,096 rows: enough to notice that work begun belongs to other signatures."""
        crc = 0
        for array in self.arrays:
            step = max(1, len(array) // 4096)
            crc = zlib.crc32(np.ascontiguousarray(array[::step]).data, crc)
        self.forget()
        return f"{[len(array) for array in self.arrays]}-{crc:08x}"


def _map(path: Path) -> mmap.mmap | None:
    size = path.stat().st_size
    if size % ROW_BYTES:
        raise UserError(
            f"{path.name} has {size} bytes, which is no whole number of signatures of {ROW_BYTES}",
            "it was cut off while it was written; build it again",
        )
    if not size:
        return None
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


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
