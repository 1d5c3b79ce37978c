"""Extraction: what text is in this file.

A format is a row of `FORMATS`: the end of the file name, the reader, and the language where the name settles it.
Adding one is adding a row. Any format may also be compressed: NAME.jsonl.gz, NAME.txt.zst, NAME.csv.bz2, NAME.md.xz;
rows marked `raw` (".warc.gz") want to see the compressed bytes themselves.

Every text passes `mojibake.repair` on its way out: text that was once decoded wrongly is repaired where that can be
proved, and `meta.repaired` says so.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from danlu.core.errors import UserError
from danlu.data.formats import archives, html, mail, manpage, notebook, office, pdf, plain, records, tables, warc, wiki
from danlu.data.formats.encodings import UnreadableError
from danlu.data.formats.item import Broken, Format, Item, Record
from danlu.data.formats.mojibake import repair
from danlu.data.formats.streams import (
    COMPRESSIONS,
    STREAM_ERRORS,
    TooLargeError,
    file_name,
    open_bytes,
    open_raw,
    suffixes_of,
)

__all__ = ["FORMATS", "READ_ERRORS", "Broken", "Format", "Item", "extract", "format_of", "open_bytes", "read_records"]

# What a damaged file can raise on the way: compression, Parquet, csv quoting, nesting bombs in JSON.
READ_ERRORS = (*STREAM_ERRORS, csv.Error, json.JSONDecodeError, RecursionError, MemoryError, TooLargeError)


def extract(
    path: Path | str, *, text_field: str | None = None, span: tuple[int, int | None, int] | None = None
) -> Iterator[Item | Broken]:
    """Yield the texts of a file, and what in it could not be read. Never raises for what the file holds.

    `span` is (start, end, first) of a format with `cuts`: only the records that begin in these bytes.
    Raises UserError only where a package is missing that the format needs.
    """
    form = format_of(path)
    if form is None:
        yield Broken("unknown_format", f"no reader for {_suffix(path) or 'files without a suffix'}")
        return
    try:
        with open_raw(path) if form.raw else open_bytes(path) as stream:
            yield from read_stream(form, stream, text_field, span)
    except STREAM_ERRORS as error:  # it cannot even be opened
        yield Broken("unreadable", _why(error))


def read_stream(
    form: Format, stream: Any, text_field: str | None = None, span: tuple[int, int | None, int] | None = None
) -> Iterator[Item | Broken]:
    """The texts of an open file of a known format; what `extract` does once a file is open."""
    place = span or ()
    try:
        if form.records is not None:
            for record in form.records(stream, *place):
                yield (
                    record
                    if isinstance(record, Broken)
                    else _checked(records.item_of_record(*record, text_field), form)
                )
        elif form.read is not None:
            for item in form.read(stream, text_field) if form.inner else form.read(stream, *place):
                yield _checked(item, form)
    except UnreadableError as error:
        yield Broken("encoding", str(error))
    except READ_ERRORS as error:
        yield Broken("unreadable", _why(error))


def _why(error: Exception) -> str:
    """What happened, without the path: where a file lay on this machine is nothing for a corpus."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _checked(item: Item | Broken, form: Format) -> Item | Broken:
    """The language that the format knows, and repaired mojibake. Code is left alone: it may quote what it repairs."""
    if isinstance(item, Broken):
        return item
    if form.language:
        return replace(item, language=form.language)
    if item.language.startswith("code:"):
        return item
    text, steps = repair(item.text)
    return replace(item, text=text, meta={**item.meta, "repaired": steps}) if steps else item


def read_records(path: Path | str) -> Iterator[Record | Broken]:
    """Yield (place, record) of a file of records: the raw rows, for readers that want more than a text."""
    form = format_of(path)
    if form is None or form.records is None:
        names = sorted(name for name, form in FORMATS.items() if form.records)
        raise UserError(f"{file_name(path)} is not a file of records", "formats: " + ", ".join(names))
    try:
        with open_bytes(path) as stream:
            yield from form.records(stream)
    except UnreadableError as error:
        yield Broken("encoding", str(error))
    except READ_ERRORS as error:
        yield Broken("unreadable", str(error))


def format_of(path: Path | str) -> Format | None:
    """The row of the table for this file name, compression aside; None when there is no reader."""
    return FORMATS.get(_suffix(path))


def _suffix(path: Path | str) -> str:
    """The key of the table that fits the end of the name: ".warc.gz" as it is, ".txt.gz" as ".txt", ".1" as ".man"."""
    suffixes = suffixes_of(path)
    if "".join(suffixes[-2:]) in FORMATS:
        return "".join(suffixes[-2:])
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    if suffixes and manpage.SUFFIX.fullmatch(suffixes[-1]):
        return ".man"
    return suffixes[-1] if suffixes else ""


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
    ".txt": Format(read=plain.read_text_or_chat),
    ".text": Format(read=plain.read_text),
    ".md": Format(read=plain.read_text),
    ".markdown": Format(read=plain.read_text),
    ".rst": Format(read=plain.read_text),
    ".html": Format(read=html.read_html),
    ".htm": Format(read=html.read_html),
    ".xhtml": Format(read=html.read_html),
    ".warc": Format(read=warc.read_warc, cuts=warc.cut_warc, raw=True),
    ".warc.gz": Format(read=warc.read_warc, cuts=warc.cut_warc, raw=True),
    ".wet": Format(read=warc.read_warc, cuts=warc.cut_warc, raw=True),
    ".wet.gz": Format(read=warc.read_warc, cuts=warc.cut_warc, raw=True),
    ".man": Format(read=manpage.read_manpage),  # and .1 to .9, see `_suffix`
    ".jsonl": Format(records=records.read_jsonl, cuts=records.cut_jsonl),
    ".ndjson": Format(records=records.read_jsonl, cuts=records.cut_jsonl),
    ".json": Format(records=records.read_json),
    ".csv": Format(records=records.read_csv(",")),
    ".tsv": Format(records=records.read_csv("\t")),
    ".parquet": Format(records=tables.read_parquet, cuts=tables.cut_parquet),
    ".arrow": Format(records=tables.read_arrow, cuts=tables.cut_arrow),
    ".feather": Format(records=tables.read_arrow, cuts=tables.cut_arrow),
    ".pdf": Format(read=pdf.read_pdf),
    ".docx": Format(read=office.read_docx),
    ".epub": Format(read=office.read_epub),
    ".ipynb": Format(read=notebook.read_notebook),
    ".xml": Format(read=wiki.read_wiki, cuts=wiki.cut_wiki),
    ".xml.bz2": Format(read=wiki.read_wiki, cuts=wiki.cut_wiki, raw=True),
    ".eml": Format(read=mail.read_eml),
    ".mbox": Format(read=mail.read_mbox),
    ".zip": Format(read=archives.read_zip, inner=True),
    ".tar": Format(read=archives.read_tar, inner=True),
    ".tgz": Format(read=archives.read_tar, inner=True),
    **{
        suffix: Format(read=plain.read_code, language=f"code:{name}")
        for name, suffixes in _CODE.items()
        for suffix in suffixes.split()
    },
}
