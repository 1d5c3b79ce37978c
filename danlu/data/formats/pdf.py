"""PDF: the text layer, page after page, with ruled tables as Markdown.

    pypdfium2    text of every page: fast, and it knows the Chinese character collections of the fonts
    pdfplumber   only for pages with ruling lines: where are tables, and what stands in their cells

One file is one document. `meta.page_starts` are the positions in the text where pages begin, so that any range of it
leads back to a page number. Lines that stand at the top or the bottom of most pages (running titles, page numbers)
are left out, and `meta.running_lines` says how many. A scan without a text layer is counted as "no_text": characters
are not recognised here. Both packages are permissively licensed (Apache-2.0 or BSD-3-Clause; MIT).
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

from danlu.core.errors import need
from danlu.data.formats import markdown
from danlu.data.formats.item import EXCERPT, Broken, Item
from danlu.data.formats.streams import read_all

_MAX_BYTES = 1 << 28
_MAX_PAGES = 5_000
_MAX_OBJECTS = 20_000  # on a page; maps and plots have more, and no tables
_MIN_RULES = 2  # lines or boxes below which a page has no ruled table
_RUNNING_SHARE, _RUNNING_PAGES = 0.6, 4  # a line on so many pages is not part of the text
_EDGE = 2  # lines at the top and at the bottom that may be running ones


def read_pdf(stream: BinaryIO) -> Iterator[Item | Broken]:
    pdfium = need("pypdfium2", "pdf")
    data = read_all(stream, _MAX_BYTES)
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        encrypted = "password" in str(error).lower()
        yield Broken("encrypted" if encrypted else "unreadable", str(error)[:EXCERPT])
        return
    try:
        yield _read(document, data)
    except Exception as error:  # pdfium, pdfminer and their callers each have errors of their own
        yield Broken("unreadable", f"{type(error).__name__}: {error}"[:EXCERPT])
    finally:
        document.close()


def _read(document: Any, data: bytes) -> Item | Broken:
    count = len(document)
    if count > _MAX_PAGES:
        return Broken("too_large", f"{count} pages")
    pages: list[str] = []
    for number in range(count):
        page = document[number]
        try:
            ruled = _MIN_RULES <= _rules(page) <= _MAX_OBJECTS
            text = (_with_tables(data, number) if ruled else "") or _plain(page)
        finally:
            page.close()
        pages.append(text)
    running = _drop_running_lines(pages)
    if not any(page.strip() for page in pages):
        return Broken("no_text", f"no text layer on {count} pages")
    starts, text = [], ""
    for page_text in pages:
        text += "\n\n" if text and page_text else ""
        starts.append(len(text))
        text += page_text
    meta: dict[str, Any] = {"pages": count, "page_starts": starts}
    for name in ("Title", "Author"):
        value = " ".join(str(document.get_metadata_dict().get(name) or "").split())
        if value:
            meta[name.lower()] = value[:300]
    return Item(text, meta=meta | ({"running_lines": running} if running else {}))


def _plain(page: Any) -> str:
    text_page = page.get_textpage()
    try:
        text = str(text_page.get_text_bounded())
    finally:
        text_page.close()
    text = re.sub("[\ufffe\x02]\r?\n?", "", text)  # a word broken at the end of a line
    return "\n".join(line.strip() for line in text.replace("\r\n", "\n").split("\n")).strip()


def _rules(page: Any) -> int:
    """How many drawn paths the page has; 0 when it has too many objects to look at."""
    import pypdfium2.raw as raw

    objects = raw.FPDFPage_CountObjects(page.raw)
    if objects > _MAX_OBJECTS:
        return 0
    kinds = [raw.FPDFPageObj_GetType(raw.FPDFPage_GetObject(page.raw, i)) for i in range(objects)]
    return kinds.count(raw.FPDF_PAGEOBJ_PATH)


def _with_tables(data: bytes, number: int) -> str:
    """The text of a page whose tables are found by their lines; "" when there are none."""
    pdfplumber = need("pdfplumber", "pdf")
    with pdfplumber.open(io.BytesIO(data), pages=[number + 1]) as document:
        page = document.pages[0]
        tables = [found for found in page.find_tables() if len(found.rows) > 1 and len(found.rows[0].cells) > 1]
        if not tables:
            return ""
        pieces: list[str] = []
        top = page.bbox[1]
        for found in sorted(tables, key=lambda found: found.bbox[1]):
            _, above, _, below = found.bbox
            if above > top:
                pieces.append(page.within_bbox((page.bbox[0], top, page.bbox[2], above), strict=False).extract_text())
            pieces.append(markdown.table([[cell or "" for cell in row] for row in found.extract()]))
            top = max(top, below)
        if top < page.bbox[3]:
            pieces.append(
                page.within_bbox((page.bbox[0], top, page.bbox[2], page.bbox[3]), strict=False).extract_text()
            )
    return "\n\n".join(piece.strip() for piece in pieces if piece and piece.strip())


def _drop_running_lines(pages: list[str]) -> int:
    """Take running titles and page numbers out of the pages, in place; returns how many lines that were."""
    if len(pages) < _RUNNING_PAGES:
        return 0
    split = [page.split("\n") for page in pages]
    seen = Counter(key for lines in split for key in {_key(line) for line in _edges(lines)})
    running = {key for key, count in seen.items() if key and count >= _RUNNING_SHARE * len(pages)}
    dropped = 0
    for index, lines in enumerate(split):
        kept = [
            line
            for i, line in enumerate(lines)
            if not ((i < _EDGE or i >= len(lines) - _EDGE) and _key(line) in running)
        ]
        dropped += len(lines) - len(kept)
        pages[index] = "\n".join(kept).strip()
    return dropped


def _edges(lines: list[str]) -> list[str]:
    return lines if len(lines) <= 2 * _EDGE else [*lines[:_EDGE], *lines[-_EDGE:]]


def _key(line: str) -> str:
    """A line with its numbers made equal: "Page 3 of 9" is on every page."""
    return re.sub(r"\d+", "0", " ".join(line.split()))
