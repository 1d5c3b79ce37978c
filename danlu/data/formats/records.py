"""Records as text: jsonl, json and csv, and how a record becomes a text.

A record is a mapping; its text is looked for under the usual names (`TEXT_FIELDS`), or under the one the config gives.
A broken line of a large jsonl costs that line only.

A jsonl is cut at line ends. Its places are line numbers, so cutting counts the line feeds up to each cut: one pass
over the bytes at the speed of memory, far below the price of reading the same bytes as JSON, and only for files that
are cut at all. csv is not cut: a line feed inside quotes looks like the end of a row, and one cannot tell from the
middle of a file.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from danlu.data.formats.chat import chat_records
from danlu.data.formats.encodings import UnreadableError, decode, detect
from danlu.data.formats.item import EXCERPT, Broken, Cut, Item, Record
from danlu.data.formats.streams import Chained, read_all

TEXT_FIELDS = ("text", "content", "body", "document", "markdown", "code", "passage", "article")
META_FIELDS = ("title", "author", "url", "date", "id", "dynasty", "tags")  # carried along when short
_MAX_META = 300  # characters; longer values are text, not meta
_LANGUAGE = re.compile(r"zh|en|code:[a-z0-9+#._-]{1,32}")  # what a record may claim to be
_DETECT_BYTES = 64_000
_MAX_LINE = 1 << 28  # bytes; a longer line is no record but a file of another kind
_CHUNK = 1 << 20


# ---- jsonl -----------------------------------------------------------------------------------------------------


def read_jsonl(stream: BinaryIO, start: int = 0, end: int | None = None, first: int = 0) -> Iterator[Record | Broken]:
    """One JSON value a line, in constant memory. A line that is none is kept aside with its number."""
    head = stream.read(_DETECT_BYTES)
    encoding = _detect_lines(head)
    if encoding.startswith(("utf-16", "utf-32")):  # a line feed is not one byte there, and such a file is not cut
        text = decode(head + read_all(stream))[0]
        lines: Iterator[bytes] = (line.encode("utf-8", "surrogatepass") for line in text.split("\n"))
        encoding = "utf-8"
    elif start:
        stream.seek(start)
        lines = _lines(stream)
    else:
        lines = _lines(io.BufferedReader(Chained(head, stream), _CHUNK))
    position = start
    for number, line in enumerate(lines, start=first + 1):
        if end is not None and position >= end:
            return
        position += len(line)
        if not line.strip():
            continue
        place = f":{number}"
        try:
            yield place, json.loads(line.decode(encoding))
        except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            excerpt = line[: 4 * EXCERPT].decode(encoding, "replace").rstrip("\n")[:EXCERPT]
            yield Broken("broken_line", str(error), place, excerpt)


def cut_jsonl(stream: BinaryIO, wanted: list[int]) -> list[Cut]:
    """The first line at or after each wanted offset, with the number of lines before it."""
    if _detect_lines(stream.read(_DETECT_BYTES)).startswith(("utf-16", "utf-32")):
        return []
    stream.seek(0)
    cuts: list[Cut] = []
    todo = [offset for offset in wanted if offset > 0]
    base = lines = 0
    while todo and (chunk := stream.read(_CHUNK)):
        while todo:
            found = chunk.find(b"\n", max(0, todo[0] - 1 - base))
            if found < 0:
                break
            cuts.append((base + found + 1, lines + chunk.count(b"\n", 0, found + 1)))
            todo = [offset for offset in todo if offset > cuts[-1][0]]
        lines += chunk.count(b"\n")
        base += len(chunk)
    return cuts


def _detect_lines(head: bytes) -> str:
    """The encoding of a file of lines. One line of garbage must not decide for the others: UTF-8 when in doubt."""
    try:
        return detect(head)
    except UnreadableError:
        return "utf-8"


def _lines(stream: Any) -> Iterator[bytes]:
    while line := stream.readline(_MAX_LINE):
        yield line


# ---- json, csv -------------------------------------------------------------------------------------------------


def read_json(stream: BinaryIO) -> Iterator[Record | Broken]:
    """A JSON array (its elements), or one object. An object around one array of objects counts as that array.

    An export of a chat is read as its conversations.
    """
    text, _ = decode(read_all(stream))
    value = json.loads(text)
    conversations = chat_records(value)
    if conversations is not None:
        if not conversations:
            yield Broken("no_text", "no message of this chat can be read")
        yield from conversations
        return
    if isinstance(value, dict):
        arrays = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        value = arrays[0] if len(arrays) == 1 and not text_in(value, None) else [value]
    for index, record in enumerate(value if isinstance(value, list) else [value]):
        yield f"#{index}", record


def read_csv(delimiter: str) -> Callable[[BinaryIO], Iterator[Record | Broken]]:
    """A reader of rows with a header, in constant memory."""

    def read(stream: BinaryIO) -> Iterator[Record | Broken]:
        head = stream.read(_DETECT_BYTES)
        encoding = detect(head)
        csv.field_size_limit(_MAX_LINE)  # the default of 128 KB is less than an article
        text = io.TextIOWrapper(io.BufferedReader(Chained(head, stream), _CHUNK), encoding, newline="")
        reader = csv.reader(text, delimiter=delimiter)
        try:
            header = next(reader, None)
            for row in reader:
                place = f":{reader.line_num}"
                if header is None or not row:
                    continue
                if len(row) != len(header):
                    detail = f"{len(row)} fields, the header has {len(header)}"
                    yield Broken("broken_line", detail, place, delimiter.join(row)[:EXCERPT])
                    continue
                yield place, dict(zip((name.strip() for name in header), row, strict=True))
        except UnicodeDecodeError as error:
            raise UnreadableError(f"not valid {encoding} after line {reader.line_num}: {error.reason}") from None

    return read


# ---- a record becomes a text -----------------------------------------------------------------------------------


def item_of_record(place: str, record: Any, text_field: str | None) -> Item | Broken:
    """The text of a record with its short facts, or why it has none."""
    if isinstance(record, str):
        return Item(record, place)
    if not isinstance(record, dict):
        return Broken("no_text", f"a {type(record).__name__} is no record", place, str(record)[:EXCERPT])
    name = text_in(record, text_field)
    if name is None:
        fields = ", ".join(map(str, itertools.islice(record, 100))) or "none"
        wanted = text_field or "/".join(TEXT_FIELDS)
        excerpt = json.dumps(record, ensure_ascii=False, default=str)[:EXCERPT]
        return Broken("no_text", f"no field {wanted} with text; fields: {fields}"[:EXCERPT], place, excerpt)
    language, licence = record.get("language"), record.get("license", record.get("licence"))
    return Item(
        record[name],
        place,
        language if isinstance(language, str) and _LANGUAGE.fullmatch(language) else "",
        {key: record[key] for key in META_FIELDS if key in record and _is_short(record[key])},
        licence if isinstance(licence, str) and len(licence) <= _MAX_META else "",
    )


def text_in(record: dict[str, Any], text_field: str | None) -> str | None:
    """The name of the field that holds the text, or None."""
    names = (text_field,) if text_field else TEXT_FIELDS
    return next((name for name in names if isinstance(record.get(name), str) and record[name].strip()), None)


def _is_short(value: Any) -> bool:
    if isinstance(value, float) and not math.isfinite(value):  # no JSON has it
        return False
    return isinstance(value, str | int | float) and len(str(value)) <= _MAX_META and value != ""
