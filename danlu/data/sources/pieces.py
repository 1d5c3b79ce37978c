"""Pieces: files cut into spans of bytes, so that one large file uses all cores.

    files of a source  --pieces-->  [Piece, Piece, ...]  --read_piece-->  items     (any process, any machine)

    rows.jsonl    20 GB    -> 80 pieces of 256 MB, each from the beginning of a line to the beginning of another
    pages.warc.gz  1 GB    -> 4 pieces, each from the beginning of a gzip member
    book.pdf      30 MB    -> 1 piece: it cannot be cut
    notes/*.md             -> together 1 piece: `group` gathers small pieces up to the size asked for

A piece is a file and the bytes [start, end) of it. It is planned at a place where a record begins (`Format.cuts`), so
reading it needs no knowledge of its neighbours, and however a file is cut, the pieces in their order give exactly what
the whole file gives: the same texts, the same places, hence the same ids. Compressed files are one piece each, unless
their format has an inner frame (WARC: a gzip member a record; Wikipedia: a bzip2 stream every hundred pages).

A piece is plain data: `to_json` and `from_json` carry it to another process.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.formats.extract import Broken, Item, extract, format_of
from danlu.data.formats.streams import COMPRESSIONS, STREAM_ERRORS, open_raw, suffixes_of
from danlu.data.sources.find import SourceFile

TARGET_BYTES = 64 << 20


@dataclass(frozen=True)
class Piece:
    """The bytes [start, end) of a file; end None means to its end. `first`: records before, where places count them."""

    file: SourceFile
    start: int = 0
    end: int | None = None
    first: int = 0
    size: int = 0  # bytes on the disk, for sharing out the work

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.end is None

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.file.source,
            "name": self.file.name,
            "path": str(self.file.path),
            "licence": self.file.licence,
            "reader": self.file.reader,
            "start": self.start,
            "end": self.end,
            "first": self.first,
            "size": self.size,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Piece:
        path = data["path"]
        file = SourceFile(
            data["source"],
            data["name"],
            path if "://" in path else Path(path),
            data["licence"],
            data["reader"],
        )
        return cls(file, data["start"], data["end"], data["first"], data["size"])


def pieces(file: SourceFile, target_bytes: int = TARGET_BYTES) -> list[Piece]:
    """Cut a file into pieces of about `target_bytes`, where its format allows it; else one piece.

    A file that cannot even be looked at is one piece too: reading it says why.
    """
    try:
        with open_raw(file.path) as stream:
            size = stream.seek(0, io.SEEK_END)
    except STREAM_ERRORS:
        return [Piece(file)]
    return (
        cut_at(file, list(range(target_bytes, size, target_bytes))) if size > target_bytes else [Piece(file, size=size)]
    )


def cut_at(file: SourceFile, offsets: list[int]) -> list[Piece]:
    """Cut a file at the first record at or after each of `offsets` (ascending bytes of the file as it is stored)."""
    form = format_of(file.path)
    cuts: list[tuple[int, int]] = []
    size = 0
    try:
        with open_raw(file.path) as stream:
            size = stream.seek(0, io.SEEK_END)
            if form is not None and form.cuts is not None and not file.reader and (form.raw or not _packed(file.path)):
                stream.seek(0)
                cuts = [cut for cut in form.cuts(stream, sorted(offsets)) if 0 < cut[0] < size]
    except (*STREAM_ERRORS, ValueError):  # damaged: reading the whole says how
        cuts = []
    starts = [(0, 0), *cuts]
    ends: list[int | None] = [start for start, _ in cuts]
    return [
        Piece(file, start, end, first, (size if end is None else end) - start)
        for (start, first), end in zip(starts, [*ends, None], strict=True)
    ]


def read_piece(piece: Piece, text_field: str | None = None) -> Iterator[Item | Broken]:
    """Yield the texts of a piece, and what in it could not be read, as `SourceFile.read` does for a whole file."""
    if piece.is_whole:
        yield from piece.file.read(text_field)
    else:
        yield from extract(piece.file.path, text_field=text_field, span=(piece.start, piece.end, piece.first))


def group(all_pieces: Iterable[Piece], target_bytes: int = TARGET_BYTES, most: int = 10_000) -> Iterator[list[Piece]]:
    """Gather neighbouring pieces into tasks of at most `target_bytes` and `most` pieces; a larger piece stays alone.

    The grouping depends on the order and sizes of the pieces only.
    """
    task: list[Piece] = []
    size = 0
    for piece in all_pieces:
        if task and (size + piece.size > target_bytes or len(task) >= most):
            yield task
            task, size = [], 0
        task.append(piece)
        size += piece.size
    if task:
        yield task


def _packed(path: Path | str) -> bool:
    return (suffixes_of(path) or [""])[-1] in COMPRESSIONS
