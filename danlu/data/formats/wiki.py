"""Dumps of Wikipedia and other MediaWiki sites: pages-articles.xml, plain or as multistream .xml.bz2.

    <mediawiki> <siteinfo>...</siteinfo>
      <page> <title>丹炉</title> <ns>0</ns> <id>9228</id> [<redirect title="..."/>]
        <revision> ... <text>'''丹炉'''是...</text> </revision>
      </page> ...

An article is one document, its text made plain by `wikitext`; of several revisions the last counts. Redirects and
pages of other namespaces (talk, templates, files) are no articles: each is counted with its reason and no text. The
place of a page is its id, which also builds its address.

Cutting: "<page>" cannot stand in text, where "<" is written "&lt;". The multistream dumps are bzip2 streams of a
hundred pages each; they are cut where a stream begins with a page, so a dump packed otherwise is simply one piece.
Source:
https://www.mediawiki.org/wiki/Help:Export and https://en.wikipedia.org/wiki/Wikipedia:Database_download.
"""

from __future__ import annotations

import bz2
import io
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from danlu.core.errors import need
from danlu.data.formats.item import EXCERPT, Broken, Cut, Item
from danlu.data.formats.streams import Chained, Slice, find_bytes
from danlu.data.formats.wikitext import plain

_OPEN, _CLOSE = b"<page>", b"</page>"
_STREAM = b"1AY&SY"  # begins the first block of a bzip2 stream, behind "BZh9"
_CHUNK = 1 << 20
_MAX_PAGE = 1 << 26
_LICENCE = "CC-BY-SA-4.0"


def read_wiki(stream: BinaryIO, start: int = 0, end: int | None = None, first: int = 0) -> Iterator[Item | Broken]:
    """The articles of the pages that begin in [start, end); the stream is compressed or not."""
    if start:
        packed = _head(stream).startswith(b"BZh")
        source: Any = io.BufferedReader(Slice(stream, start, end), _CHUNK)
        source = bz2.BZ2File(source) if packed else source
    else:
        head = stream.read(4)
        source = io.BufferedReader(Chained(head, cast(BinaryIO, Slice(stream, None, end and end - len(head)))), _CHUNK)
        source = bz2.BZ2File(source) if head.startswith(b"BZh") else source
    buffer = b""
    seen = start > 0
    while chunk := source.read(_CHUNK):
        buffer += chunk
        if not seen and len(buffer) >= 10 and b"<mediawiki" not in buffer[:4096]:
            yield Broken("unknown_format", "XML that is no dump of a wiki")
            return
        seen = True
        position = 0
        while (begin := buffer.find(_OPEN, position)) >= 0 and (close := buffer.find(_CLOSE, begin)) >= 0:
            following = buffer.find(_OPEN, begin + 1, close)
            position = close + len(_CLOSE) if following < 0 else following
            yield _read_page(buffer[begin:position]) if following < 0 else _endless(buffer[begin:position])
        buffer = buffer[position:]
        if _OPEN not in buffer:
            buffer = buffer[-len(_OPEN) :]
        elif len(buffer) > _MAX_PAGE:
            yield Broken("too_large", f"a page of more than {_MAX_PAGE} bytes", _place(buffer[:4096]))
            buffer = buffer[-len(_CLOSE) :]
    while (begin := buffer.find(_OPEN)) >= 0:
        following = buffer.find(_OPEN, begin + 1)
        yield _endless(buffer[begin : following if following > 0 else None])
        buffer = buffer[following:] if following > 0 else b""


def cut_wiki(stream: BinaryIO, wanted: list[int]) -> list[Cut]:
    packed = _head(stream).startswith(b"BZh")
    cuts: list[Cut] = []
    for offset in wanted:
        if offset <= 0 or (cuts and offset <= cuts[-1][0]):
            continue
        begin = _next_stream(stream, offset) if packed else next(find_bytes(stream, offset, _OPEN), None)
        if begin is None:
            break
        cuts.append((begin, 0))
    return cuts


def _next_stream(stream: BinaryIO, offset: int) -> int | None:
    """Where the next bzip2 stream that begins with a page starts."""
    for at in find_bytes(stream, offset + 4, _STREAM):
        stream.seek(at - 4)
        if not stream.read(3).startswith(b"BZh"):
            continue
        stream.seek(at - 4)
        unpacker, text = bz2.BZ2Decompressor(), b""
        try:
            while len(text) < 64 and not unpacker.eof and (chunk := stream.read(1 << 16)):
                text += unpacker.decompress(chunk, 64)
        except OSError:
            continue
        if text.lstrip().startswith(_OPEN):
            return at - 4
    return None


def _head(stream: BinaryIO) -> bytes:
    stream.seek(0)
    return stream.read(4)


def _read_page(data: bytes) -> Item | Broken:
    from lxml import etree

    need("lxml", "html")
    try:
        page = etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True))
    except etree.LxmlError as error:
        return Broken("unreadable", str(error)[:EXCERPT], _place(data), data[:EXCERPT].decode("utf-8", "replace"))
    title, place = (page.findtext("title") or "").strip(), f"#{(page.findtext('id') or '').strip()}"
    namespace = (page.findtext("ns") or "0").strip()
    redirect = page.find("redirect")
    if redirect is not None:
        return Broken("redirect", f"{title} -> {redirect.get('title')}"[:EXCERPT], place)
    if namespace != "0":
        return Broken("namespace", f"{namespace}: {title}"[:EXCERPT], place)
    revision = page.findall("revision")
    source = (revision[-1].findtext("text") if revision else "") or ""
    text, categories = plain(source)
    if not text:
        return Broken("no_text", title[:EXCERPT], place, source[:EXCERPT])
    meta: dict[str, Any] = {"title": title}
    if categories:
        meta["categories"] = categories
    if revision and (date := revision[-1].findtext("timestamp")):
        meta["date"] = date.strip()
    return Item(f"# {title}\n\n{text}", place, meta=meta, licence=_LICENCE)


def _endless(data: bytes) -> Broken:
    """A page that the next one, or the end of the file, begins inside of."""
    return Broken("unreadable", "the page has no end", _place(data), data[:EXCERPT].decode("utf-8", "replace"))


def _place(data: bytes) -> str:
    """The id of a page that cannot be parsed, by its first <id>."""
    found = data.partition(b"<id>")[2].partition(b"</id>")[0].strip()
    return f"#{found.decode()}" if found.isdigit() else "#?"
