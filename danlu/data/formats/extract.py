"""Extraction: what text is in this file.

A format is a row of a table: the end of the file name, the reader, and the language where the name settles it.
A reader turns one file into items; an item is a text, or a text that could not be had with the reason why. So a
damaged file is a counted row of the rejected ones, never a crash, and a broken line of a large jsonl costs that
line only. Any format may also be compressed: NAME.jsonl.gz, NAME.txt.zst.

Records (a line of jsonl, a row of csv or parquet, an element of a json array) are mappings; their text is looked
for under the usual names (`TEXT_FIELDS`), or under the one the config gives.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from danlu.core.errors import UserError, need
from danlu.data.formats.encodings import UnreadableError, decode, detect

TEXT_FIELDS = ("text", "content", "body", "document", "markdown", "code", "passage", "article")
META_FIELDS = ("title", "author", "url", "date", "id", "dynasty", "tags")  # carried along when short
_MAX_META = 300  # characters; longer values are text, not meta
_DETECT_BYTES = 64_000
_EXCERPT = 500  # characters of a broken line that are kept with its reason


@dataclass(frozen=True)
class Item:
    """One text found in a file. `place` says where in the file: "" for the whole, ":12" for line 12."""

    text: str
    place: str = ""
    language: str = ""  # set when the format knows it ("code:python"); else detected
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Broken:
    """Something that should have been a text and is not. `reason` is a short code, `detail` says more."""

    reason: str
    detail: str
    place: str = ""
    text: str = ""


@dataclass(frozen=True)
class Format:
    """How files of one kind are read. `records` is set when a file holds many rows."""

    read: Callable[[BinaryIO], Iterator[Item | Broken]] | None = None
    records: Callable[[BinaryIO], Iterator[tuple[str, Any] | Broken]] | None = None
    language: str = ""


def extract(path: Path, *, text_field: str | None = None) -> Iterator[Item | Broken]:
    """Yield the texts of a file, and what in it could not be read. Never raises for what the file holds.

    Raises UserError only where a package is missing that the format needs.
    """
    form = format_of(path)
    if form is None:
        yield Broken("unknown_format", f"no reader for {_suffix(path) or 'files without a suffix'}")
        return
    try:
        with open_bytes(path) as stream:
            if form.records is not None:
                for record in form.records(stream):
                    yield record if isinstance(record, Broken) else _item_of_record(*record, text_field)
            elif form.read is not None:
                for item in form.read(stream):
                    if isinstance(item, Item) and form.language:
                        item = Item(item.text, item.place, form.language, item.meta)
                    yield item
    except UnreadableError as error:
        yield Broken("encoding", str(error))
    except READ_ERRORS as error:
        yield Broken("unreadable", str(error))


def read_records(path: Path) -> Iterator[tuple[str, Any] | Broken]:
    """Yield (place, record) of a file of records: the raw rows, for readers that want more than a text."""
    form = format_of(path)
    if form is None or form.records is None:
        names = sorted(name for name, form in FORMATS.items() if form.records)
        raise UserError(f"{path.name} is not a file of records", "formats: " + ", ".join(names))
    try:
        with open_bytes(path) as stream:
            yield from form.records(stream)
    except UnreadableError as error:
        yield Broken("encoding", str(error))
    except READ_ERRORS as error:
        yield Broken("unreadable", str(error))


def format_of(path: Path) -> Format | None:
    """The row of the table for this file name, compression aside; None when there is no reader."""
    return FORMATS.get(_suffix(path))


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, decompressing .gz and .zst on the way."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix.lower() == ".zst":
        return io.BufferedReader(_ZstdFile(path))
    return path.open("rb")


# What a damaged file can raise on the way: compression, Parquet, csv quoting, nesting bombs in JSON.
READ_ERRORS = (OSError, EOFError, zlib.error, pa.ArrowException, csv.Error, json.JSONDecodeError, RecursionError)


class _ZstdFile(io.RawIOBase):
    """A zstd file as a raw stream, on the decompressor that pyarrow brings along."""

    def __init__(self, path: Path) -> None:
        self._stream = pa.input_stream(str(path), compression="zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


# ---- one document a file ---------------------------------------------------------------------------------------


def _read_text(stream: BinaryIO) -> Iterator[Item | Broken]:
    text, encoding = decode(stream.read())
    yield Item(text, meta={} if encoding in ("utf-8", "utf-8-sig") else {"encoding": encoding})


def _read_html(stream: BinaryIO) -> Iterator[Item | Broken]:
    """The main text of a web page, as Markdown, without menus, footers and advertisements."""
    trafilatura = need("trafilatura", "html")
    page, _ = decode(stream.read())
    text = trafilatura.extract(page, output_format="markdown", include_comments=False, deduplicate=False)
    if not text:
        yield Broken("no_main_text", "the page has no main text", text=page[:_EXCERPT])
        return
    title = getattr(trafilatura.extract_metadata(page), "title", None)
    yield Item(text, meta={"title": title} if title else {})


# ---- many records a file ---------------------------------------------------------------------------------------


def _records_jsonl(stream: BinaryIO) -> Iterator[tuple[str, Any] | Broken]:
    """One JSON value a line, in constant memory. A line that is none is kept aside with its number."""
    head = stream.read(_DETECT_BYTES)
    encoding = _detect_lines(head)
    if encoding.startswith(("utf-16", "utf-32")):  # a line feed is not one byte there
        lines: Iterator[bytes] = (
            line.encode("utf-8", "surrogatepass") for line in decode(head + stream.read())[0].split("\n")
        )
        encoding = "utf-8"
    else:
        lines = _lines(head, stream)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f":{number}"
        try:
            yield place, json.loads(line.decode(encoding))
        except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            yield Broken("broken_line", str(error), place, line[:_EXCERPT].decode(encoding, "replace"))


def _detect_lines(head: bytes) -> str:
    """The encoding of a file of lines. One line of garbage must not decide for the others: UTF-8 when in doubt."""
    try:
        return detect(head)
    except UnreadableError:
        return "utf-8"


def _lines(head: bytes, stream: BinaryIO) -> Iterator[bytes]:
    """The lines of `head` + the rest of `stream`, for a stream that cannot be wound back."""
    complete, _, rest = head.rpartition(b"\n")
    if complete:
        yield from complete.split(b"\n")
    first = rest + stream.readline()
    yield first
    yield from stream


def _records_json(stream: BinaryIO) -> Iterator[tuple[str, Any] | Broken]:
    """A JSON array (its elements), or one object. An object around one array of objects counts as that array."""
    text, _ = decode(stream.read())
    value = json.loads(text)
    if isinstance(value, dict):
        arrays = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        value = arrays[0] if len(arrays) == 1 and not _text_in(value, None) else [value]
    for index, record in enumerate(value if isinstance(value, list) else [value]):
        yield f"#{index}", record


def _records_parquet(stream: BinaryIO) -> Iterator[tuple[str, Any] | Broken]:
    plain = isinstance(getattr(stream, "raw", None), io.FileIO)  # Parquet is read from its end: it must be seekable
    with pq.ParquetFile(stream if plain else io.BytesIO(stream.read())) as parquet:
        row = 0
        for batch in parquet.iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                yield f"#{row}", record
                row += 1


def _records_csv(delimiter: str) -> Callable[[BinaryIO], Iterator[tuple[str, Any] | Broken]]:
    def read(stream: BinaryIO) -> Iterator[tuple[str, Any] | Broken]:
        text, _ = decode(stream.read())
        csv.field_size_limit(1 << 30)  # the default of 128 KB is less than an article
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header = next(reader, None)
        for row in reader:
            place = f":{reader.line_num}"
            if header is None or not row:
                continue
            if len(row) != len(header):
                detail = f"{len(row)} fields, the header has {len(header)}"
                yield Broken("broken_line", detail, place, delimiter.join(row)[:_EXCERPT])
                continue
            yield place, dict(zip((name.strip() for name in header), row, strict=True))

    return read


def _item_of_record(place: str, record: Any, text_field: str | None) -> Item | Broken:
    if isinstance(record, str):
        return Item(record, place)
    if not isinstance(record, dict):
        return Broken("no_text", f"a {type(record).__name__} is no record", place, str(record)[:_EXCERPT])
    name = _text_in(record, text_field)
    if name is None:
        fields = ", ".join(map(str, record)) or "none"
        wanted = text_field or "/".join(TEXT_FIELDS)
        excerpt = json.dumps(record, ensure_ascii=False, default=str)[:_EXCERPT]
        return Broken("no_text", f"no field {wanted} with text; fields: {fields}"[:_EXCERPT], place, excerpt)
    language = record.get("language")
    return Item(
        record[name],
        place,
        language if isinstance(language, str) and (language in ("zh", "en") or language.startswith("code:")) else "",
        {key: record[key] for key in META_FIELDS if key in record and _is_short(record[key])},
    )


def _text_in(record: dict[str, Any], text_field: str | None) -> str | None:
    names = (text_field,) if text_field else TEXT_FIELDS
    return next((name for name in names if isinstance(record.get(name), str) and record[name].strip()), None)


def _is_short(value: Any) -> bool:
    return isinstance(value, str | int | float) and len(str(value)) <= _MAX_META and value != ""


# language -> suffixes
_CODE = {
    "python": ".py .pyi",
    "javascript": ".js .mjs",
    "typescript": ".ts .tsx",
    "c": ".c .h",
    "cpp": ".cc .cpp .hpp",
    "cuda": ".cu",
    "java": ".java",
    "go": ".go",
    "rust": ".rs",
    "ruby": ".rb",
    "php": ".php",
    "csharp": ".cs",
    "kotlin": ".kt",
    "swift": ".swift",
    "lua": ".lua",
    "shell": ".sh",
    "sql": ".sql",
    "r": ".r",
    "julia": ".jl",
    "scala": ".scala",
    "perl": ".pl",
    "haskell": ".hs",
}

FORMATS: dict[str, Format] = {
    ".txt": Format(read=_read_text),
    ".text": Format(read=_read_text),
    ".md": Format(read=_read_text),
    ".markdown": Format(read=_read_text),
    ".rst": Format(read=_read_text),
    ".html": Format(read=_read_html),
    ".htm": Format(read=_read_html),
    ".xhtml": Format(read=_read_html),
    ".jsonl": Format(records=_records_jsonl),
    ".ndjson": Format(records=_records_jsonl),
    ".json": Format(records=_records_json),
    ".parquet": Format(records=_records_parquet),
    ".csv": Format(records=_records_csv(",")),
    ".tsv": Format(records=_records_csv("\t")),
    **{
        suffix: Format(read=_read_text, language=f"code:{name}")
        for name, suffixes in _CODE.items()
        for suffix in suffixes.split()
    },
}
