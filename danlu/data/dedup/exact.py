"""Equal documents, and lines or paragraphs that are on many pages.

Equal documents: 128 bits of a hash stand for a text. Among 10^10 texts two different ones share them with probability
1.5 * 10^-19, so equal hashes are equal texts. The document with the smallest id stays.

Repeated lines: a line that stands in more than N documents says nothing about any of them ("All rights reserved",
"上一篇 下一篇 返回目录"), and is taken out of all of them. Llama 3 (arXiv:2407.21783, section 3.1.1) takes lines out
that are found more than six times, which is the default here. It is counted in how many *documents* a line stands,
after duplicates of whole documents are gone, or a page copied seven times would lose all its text. Not for code,
where the same short lines are everywhere and mean something.

    pass 1   text -> hashes of its lines, each once -> spill        uint32 [lines, 4], 16 bytes a line
    between  sorted and counted                                     exact, in bounded memory: no Bloom filter
    pass 2   text -> text without repeated lines, and what was taken out

Two lines are the same when they differ at most in white space. A line without units (rules, brackets, blank) is
layout: it is never counted and never removed by itself.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import UserError
from danlu.core.text import units
from danlu.data.dedup.spill import DamagedSpill, Spill
from danlu.data.dedup.tables import number

MORE_THAN = 6  # documents
Kind = Literal["line", "paragraph"]

_HASH_WORDS = 4
_HASH_BYTES = 4 * _HASH_WORDS
# A paragraph ends at an empty line. Both patterns give pieces that joined are the text.
_PIECES = {
    "line": re.compile(r"[^\n]*\n|[^\n]+$"),
    "paragraph": re.compile(r"(?:[^\n]*\S[^\n]*(?:\n|$))+|[^\n]*\n|[^\n]+$"),
}
_PIECE_ROWS = 1 << 16


# ---- whole documents -----------------------------------------------------------------------------------------------


def hash_rows(texts: Iterable[str | None]) -> NDArray[np.uint32]:
    """uint32 [D, 4]: 128 bits of BLAKE2b for each text; zeros for None."""
    digests = b"".join(bytes(16) if text is None else _digest(text) for text in texts)
    return np.frombuffer(digests, dtype=">u4").astype(np.uint32).reshape(-1, _HASH_WORDS)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def equal_documents(
    hashes: NDArray[np.uint32] | Path,
    keys: NDArray[np.uint64],
    work: Path,
    *,
    wanted: NDArray[np.bool_] | None = None,
    guarded: int = 0,
    memory_bytes: int = 1 << 30,
) -> NDArray[np.uint32]:
    """uint32 [D]: position of the equal document with the smallest id, of itself where it stays.

    hashes   uint32 [D, 4] or a file of them (`hash_rows`, `urls.url_hashes`); a row of zeros is like nothing
    keys     uint64 [D] of the ids (`tables.id_keys`)
    wanted   bool [D]: the others are like nothing
    guarded  so many documents at the front come first whatever their ids: those behind them are dropped for them
    """
    count = hashes.stat().st_size // _HASH_BYTES if isinstance(hashes, Path) else len(hashes)
    if count != len(keys):
        raise UserError(f"{len(keys)} ids for {count} hashes", "every document needs both")
    work.mkdir(parents=True, exist_ok=True)
    order = number(keys, work, memory_bytes, guarded)
    rank = np.empty(count, dtype=np.uint32)
    for start in range(0, count, _PIECE_ROWS):
        piece = order[start : start + _PIECE_ROWS]
        rank[piece] = np.arange(start, start + len(piece), dtype=np.uint32)
    spill = Spill(work, "equal", _HASH_WORDS + 1, count, memory_bytes)
    for start, rows in _hash_pieces(hashes):
        here = slice(start, start + len(rows))
        records = np.column_stack([rows, rank[here]])
        spill.add(records[rows.any(axis=1) if wanted is None else rows.any(axis=1) & wanted[here]])
    spill.commit()
    first = rank  # no longer needed
    first[:] = np.arange(count, dtype=np.uint32)
    last = np.zeros((1, _HASH_WORDS + 1), dtype=np.uint32)
    for piece in spill.ascending():
        both = np.concatenate([last, piece])  # a group may have begun in the piece before
        new = np.append(True, (both[1:, :-1] != both[:-1, :-1]).any(axis=1))
        head = np.maximum.accumulate(np.where(new, np.arange(len(both)), 0))
        first[order[both[1:, -1]]] = order[both[head[1:], -1]]
        last = both[head[-1:]]  # the first of the group, not its last member so far
    spill.remove()
    return first


def _hash_pieces(hashes: NDArray[np.uint32] | Path) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """(position of the first, rows), in order; a file is read and not mapped, as `tables` says why."""
    if not isinstance(hashes, Path):
        yield from ((start, hashes[start : start + _PIECE_ROWS]) for start in range(0, len(hashes), _PIECE_ROWS))
        return
    start = 0
    with hashes.open("rb") as file:
        while data := file.read(_PIECE_ROWS * _HASH_BYTES):
            rows = np.frombuffer(data, dtype="<u4").reshape(-1, _HASH_WORDS)
            yield start, rows
            start += len(rows)


# ---- lines and paragraphs --------------------------------------------------------------------------------------------


def pieces(text: str, kind: Kind) -> list[str]:
    """The lines or paragraphs of a text with their line ends; joined they are the text."""
    return _PIECES[kind].findall(text)


def piece_hashes(text: str, kind: Kind) -> NDArray[np.uint32]:
    """uint32 [P, 4]: the hash of every distinct line or paragraph of one document that has units."""
    distinct = dict.fromkeys(_plain(piece) for piece in pieces(text, kind))
    return hash_rows(piece for piece in distinct if piece)


def _plain(piece: str) -> str:
    """The piece as it is compared: white space does not count, and without units it is nothing."""
    return " ".join(piece.split()) if units(piece) else ""


class PieceCounter:
    """Counts in how many documents each piece stands. Feed `piece_hashes` of every document, in any order.

    `hashes` is how many are expected (a guess). The result does not depend on the order, nor on `memory_bytes`.
    """

    def __init__(self, work: Path, kind: Kind, hashes: int = 0, memory_bytes: int = 1 << 30) -> None:
        self.work, self.kind = work, kind
        self._spill = Spill(work, f"{kind}s", _HASH_WORDS, hashes, memory_bytes)
        self._waiting: list[NDArray[np.uint32]] = []
        self._rows, self._most = 0, max(1024, min(1 << 20, memory_bytes // 128))

    def add(self, hashes: NDArray[np.uint32]) -> None:
        self._waiting.append(hashes)
        self._rows += len(hashes)
        if self._rows >= self._most:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._spill.add(np.concatenate(self._waiting))
        self._waiting, self._rows = [], 0

    def finish(self, more_than: int = MORE_THAN) -> Repeated:
        """Those in more than so many documents, written to `work`. Raises DamagedSpill."""
        self._flush()
        self._spill.commit()
        folder = self.work / f"repeated-{self.kind}s"
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        columns = {name: (part / name).open("wb") for name in _COLUMNS}
        for rows, counts in _groups(self._spill.ascending()):
            often = counts > more_than
            lead, rest = _halves(rows[often])
            for name, column in zip(_COLUMNS, (lead, rest, counts[often].astype(np.uint64)), strict=True):
                columns[name].write(column.tobytes())
        for file in columns.values():
            file.close()
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
        self._spill.remove()
        return Repeated(folder, self.kind)


_COLUMNS = ("lead.u64", "rest.u64", "documents.u64")


def _halves(rows: NDArray[np.uint32]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    wide = rows.astype(np.uint64)
    return (wide[:, 0] << np.uint64(32)) | wide[:, 1], (wide[:, 2] << np.uint64(32)) | wide[:, 3]


def _groups(sorted_pieces: Iterable[NDArray[np.uint32]]) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int64]]]:
    """(distinct rows, how often each) from pieces in ascending order; a group may lie over the border of two."""
    open_row, open_count = np.empty((0, _HASH_WORDS), dtype=np.uint32), 0
    for piece in sorted_pieces:
        starts = np.flatnonzero(np.append(True, (piece[1:] != piece[:-1]).any(axis=1)))
        rows, counts = piece[starts], np.diff(np.append(starts, len(piece)))
        if open_count and (rows[0] == open_row[0]).all():
            counts[0] += open_count
        elif open_count:
            yield open_row, np.array([open_count])
        yield rows[:-1], counts[:-1]
        open_row, open_count = rows[-1:], int(counts[-1])
    if open_count:
        yield open_row, np.array([open_count])


@dataclass(frozen=True)
class Removed:
    """One piece that was taken out: its text, where it began in the original, and in how many documents it stands."""

    text: str
    start: int
    documents: int


class Repeated:
    """The pieces that stand in too many documents, mapped from files: looking them up needs no memory."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.folder, self.kind = folder, kind
        sizes = {(folder / name).stat().st_size for name in _COLUMNS}
        if len(sizes) != 1 or min(sizes) % 8:
            raise DamagedSpill(folder, "its columns are not equally long")
        self._columns = [
            np.memmap(folder / name, dtype=np.uint64, mode="r") if min(sizes) else np.empty(0, np.uint64)
            for name in _COLUMNS
        ]

    def __len__(self) -> int:
        return len(self._columns[0])

    def documents(self, hashes: NDArray[np.uint32]) -> NDArray[np.int64]:
        """uint32 [P, 4] -> int64 [P]: in how many documents each piece stands; 0 for those that are not repeated."""
        lead, rest, counts = self._columns
        out = np.zeros(len(hashes), dtype=np.int64)
        if not len(self) or not len(hashes):
            return out
        wanted_lead, wanted_rest = _halves(hashes)
        place = np.searchsorted(lead, wanted_lead)
        for _ in range(4):  # 64 bits are shared by chance hardly ever, four times never
            inside = place < len(lead)
            at = np.where(inside, place, 0)
            hit = inside & (lead[at] == wanted_lead) & (rest[at] == wanted_rest)
            out[hit] = counts[at[hit]]
            place = place + 1
        return out

    def remove(self, text: str) -> tuple[str, list[Removed]]:
        """The text without its repeated pieces, and what was taken out, in order. Other text is left byte for byte."""
        found = pieces(text, self.kind)
        documents = self.documents(hash_rows(_plain(piece) or None for piece in found)).tolist()
        if not any(documents):
            return text, []
        kept, removed, start = [], [], 0
        for piece, count in zip(found, documents, strict=True):
            if count:
                removed.append(Removed(piece, start, count))
            else:
                kept.append(piece)
            start += len(piece)
        return "".join(kept), removed
