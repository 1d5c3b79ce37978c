"""What a reader gives, and what a row of the table of formats is.

A reader turns one file into items; an item is a text, or a text that could not be had with the reason why. So a
damaged file is a counted row of the rejected ones, never a crash.

A format whose files can be read in parts has `cuts`: given the byte offsets somebody would like to cut at, it answers
where the nearest record after each of them begins. Its reader takes `start`, `end` and `first` and reads just that
span. Places do not depend on where a file is cut, so neither do the ids of documents:

| format              | place      | what it is                                    |
|---------------------|------------|-----------------------------------------------|
| jsonl, csv          | `:12`      | line 12                                       |
| json array, parquet | `#12`      | element or row 12, from 0                     |
| arrow               | `#3.12`    | row 12 of record batch 3                      |
| WARC, WET           | `@4096`    | byte where the record (its gz member) begins  |
| Wikipedia           | `#9228`    | id of the page                                |
| zip, tar            | `!a/b.txt` | member, followed by the place inside it       |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

EXCERPT = 500  # characters of a broken text that are kept with its reason


@dataclass(frozen=True)
class Item:
    """One text found in a file. `place` says where in the file: "" for the whole, ":12" for line 12."""

    text: str
    place: str = ""
    language: str = ""  # set when the format knows it ("code:python"); else detected
    meta: dict[str, Any] = field(default_factory=dict)
    licence: str = ""  # set when the text itself names one (an SPDX line); else that of its source


@dataclass(frozen=True)
class Broken:
    """Something that should have been a text and is not. `reason` is a short code, `detail` says more."""

    reason: str
    detail: str
    place: str = ""
    text: str = ""


Record = tuple[str, Any]  # (place, value)
Cut = tuple[int, int]  # (byte offset where a record begins, records before it where places need that, else 0)


@dataclass(frozen=True)
class Format:
    """How files of one kind are read. `records` is set when a file holds many rows.

    read, records    stream -> texts or rows; with `cuts` also stream, start, end, first -> those of a span
    cuts             seekable stream, wanted byte offsets in ascending order -> cuts in ascending order
    inner            the reader takes the name of the text's field too: it reads files of other formats inside
    raw              the reader wants the bytes of the file as they lie on the disk, compressed or not
    """

    read: Callable[..., Iterator[Item | Broken]] | None = None
    records: Callable[..., Iterator[Record | Broken]] | None = None
    language: str = ""
    raw: bool = False
    inner: bool = False
    cuts: Callable[[BinaryIO, list[int]], list[Cut]] | None = None
