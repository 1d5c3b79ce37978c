"""Crawled pages: WARC (what the server said) and WET (the text of it), plain or with one gzip member a record.

    WARC/1.0                                        request, metadata, warcinfo, revisit   no texts, passed over
    WARC-Type: response                             response   HTTP header and body: by its content type
    WARC-Target-URI: https://example.org/           resource   the body alone
    WARC-Date: 2026-01-02T03:04:05Z                 conversion a text already (WET)
    Content-Length: 5000
                                                    meta: url, date, content_type, content_length
    HTTP/1.1 200 OK  ...

The place of a record is the byte where it begins, the number that the index files of web archives (CDX) hold too: the
record can be fetched again by it. Records that share a gzip member (a file compressed as a whole) are told apart by a
number behind it. Source: ISO 28500, "The WARC File Format 1.1".

Cutting: a plain WARC is hopped through by Content-Length, since a page may quote a WARC and no byte pattern is safe. A
compressed one is searched for gzip members that begin with "WARC/".

After damage, reading goes on at the next record: the lost bytes are one `Broken`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from danlu.core.errors import need
from danlu.data.formats.encodings import UnreadableError, decode_labelled
from danlu.data.formats.html import MAX_PAGE, read_page
from danlu.data.formats.http_body import decode_body
from danlu.data.formats.item import EXCERPT, Broken, Cut, Item
from danlu.data.formats.streams import find_bytes

_HTML = ("text/html", "application/xhtml+xml")
_PLAIN = ("text/plain", "text/markdown", "text/x-markdown")
_GZIP = b"\x1f\x8b\x08"
_MARK = b"WARC/"
_CHUNK = 1 << 20
_MAX_HEADER = 1 << 16


def read_warc(stream: BinaryIO, start: int = 0, end: int | None = None, first: int = 0) -> Iterator[Item | Broken]:
    """The texts of the records that begin in [start, end) of the file, compressed or not."""
    need("fastwarc", "web")
    position = start
    while True:
        stream.seek(position)
        damage: Exception | None = None
        last, number = -1, 0
        records = _records(stream)
        while True:
            try:
                record = next(records)
            except StopIteration:
                if last >= 0 and _ends_inside(stream, last):
                    yield Broken(
                        "unreadable", "the file ends inside this record, or cannot be read behind it", f"@{last}!"
                    )
                return
            except (OSError, EOFError, ValueError, RuntimeError) as error:
                damage = error
                break
            begin = int(record.stream_pos)
            if end is not None and begin >= end:
                return
            number = number + 1 if begin == last else 0
            last = begin
            found = _read_record(record, f"@{begin}" + (f".{number}" if number else ""))
            if found is not None:
                yield found
        behind = max(last, position)
        yield Broken("unreadable", f"damaged after byte {behind}: {damage}"[:EXCERPT], f"@{behind}!")
        following = _next_record(stream, behind + 1)
        if following is None or (end is not None and following >= end):
            return
        position = following


def _records(stream: BinaryIO) -> Iterator[Any]:
    from fastwarc.warc import ArchiveIterator

    return iter(ArchiveIterator(stream, parse_http=False, strict_mode=False))


def _read_record(record: Any, place: str) -> Item | Broken | None:
    """The text of one record, why it has none, or None for what is no page at all."""
    kind = str(record.record_type)
    if kind not in ("response", "resource", "conversion"):
        return None
    headers = record.headers
    url = headers.get("WARC-Target-URI") or ""
    meta: dict[str, Any] = {"url": url, "date": headers.get("WARC-Date") or ""}
    if url.startswith(("dns:", "whois:", "metadata:")):
        return None
    if record.content_length > 2 * MAX_PAGE:
        return Broken("too_large", f"a record of {record.content_length} bytes", place, url)
    status, robots, charset = 200, "", ""
    content_type = headers.get("WARC-Identified-Payload-Type") or ""
    try:
        if kind == "response":
            record.parse_http(auto_decode="none", strict_mode=False)
            http = record.http_headers
            if http is None:
                return Broken("unreadable", "no HTTP header", place, url)
            status, charset = http.status_code or 0, record.http_charset or ""
            robots = ", ".join(value for name, value in http.items() if name.lower() == "x-robots-tag")
            reserved = [value.strip() for name, value in http.items() if name.lower() == "tdm-reservation"]
            content_type = record.http_content_type or content_type
            if reserved[:1] == ["1"]:
                return Broken("robots", "tdm-reservation", place, url)
        else:
            content_type = (headers.get("Content-Type") or "text/plain").partition(";")[0].strip().lower()
        body = record.reader.read(2 * MAX_PAGE + 1)
        if kind == "response":
            coding, packing = http.get("Transfer-Encoding") or "", http.get("Content-Encoding") or ""
            body = decode_body(body, coding, packing, MAX_PAGE + 1)
    except (OSError, EOFError, ValueError, RuntimeError) as error:
        return Broken("unreadable", f"the body cannot be decoded: {error}"[:EXCERPT], place, url)
    content_type = content_type.partition(";")[0].strip().lower()
    if status != 200:
        return Broken("http_status", str(status), place, url)
    if not body:
        return Broken("empty", "no body", place, url)
    if headers.get("WARC-Truncated"):
        meta["truncated"] = headers.get("WARC-Truncated")
    meta |= {"content_type": content_type, "content_length": len(body)}
    if content_type in _HTML or (not content_type and body.lstrip()[:1] == b"<"):
        return read_page(body, charset=charset, robots_header=robots, crawled=True, place=place, meta=meta)
    if content_type in _PLAIN:
        return _plain(body, charset, robots, place, meta)
    return Broken("content_type", content_type or "none given", place, url)


def _plain(body: bytes, charset: str, robots: str, place: str, meta: dict[str, Any]) -> Item | Broken:
    words = {word.strip().lower() for word in robots.split(",")}
    if words & {"noindex", "none", "noai"}:
        return Broken("robots", f"X-Robots-Tag: {robots}"[:EXCERPT], place, meta["url"])
    try:
        text, encoding = decode_labelled(body, charset)
    except UnreadableError as error:
        return Broken("encoding", str(error), place, meta["url"])
    return Item(text, place, meta=meta if encoding.startswith("utf-8") else {**meta, "encoding": encoding})


# ---- where records begin ---------------------------------------------------------------------------------------


def cut_warc(stream: BinaryIO, wanted: list[int]) -> list[Cut]:
    """The first record (its gzip member) at or after each wanted offset."""
    if stream.read(3) != _GZIP:
        return _hop(stream, wanted)
    cuts: list[Cut] = []
    for offset in wanted:
        if offset > 0 and not (cuts and offset <= cuts[-1][0]):
            begin = _next_member(stream, offset)
            if begin is None:
                break
            cuts.append((begin, 0))
    return cuts


def _hop(stream: BinaryIO, wanted: list[int]) -> list[Cut]:
    """Records of a plain WARC from the first one on, by their lengths; damage ends it."""
    size = stream.seek(0, io.SEEK_END)
    cuts: list[Cut] = []
    todo = [offset for offset in wanted if offset > 0]
    position = 0
    while todo and position < size:
        stream.seek(position)
        head = stream.read(4096)
        close = head.find(b"\r\n\r\n")
        if close < 0:
            head += stream.read(_MAX_HEADER)
            close = head.find(b"\r\n\r\n")
        length = _content_length(head[:close]) if head.startswith(_MARK) and close >= 0 else None
        if length is None:
            break
        if position >= todo[0]:
            cuts.append((position, 0))
            todo = [offset for offset in todo if offset > position]
        position += close + 4 + length + 4
    return cuts


def _content_length(header: bytes) -> int | None:
    for line in header.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return None


def _next_member(stream: BinaryIO, offset: int) -> int | None:
    """Where the next gzip member that holds a WARC record begins, at or after `offset`."""
    return next((at for at in find_bytes(stream, offset, _GZIP) if _holds_record(stream, at)), None)


def _holds_record(stream: BinaryIO, at: int) -> bool:
    stream.seek(at)
    try:
        return zlib.decompressobj(31).decompress(stream.read(4096), 16).startswith(_MARK)
    except zlib.error:
        return False


def _next_record(stream: BinaryIO, offset: int) -> int | None:
    """Where to go on after damage: the next member, or the next line that looks like the head of a record."""
    stream.seek(0)
    if stream.read(3) == _GZIP:
        return _next_member(stream, offset)
    return next((at + 4 for at in find_bytes(stream, offset, b"\r\n\r\n" + _MARK)), None)


def _ends_inside(stream: BinaryIO, begin: int) -> bool:
    """Whether the file breaks off within its last record, which begins at `begin`, or has unread bytes behind it."""
    stream.seek(begin)
    head = stream.read(_MAX_HEADER)
    if head.startswith(_GZIP):
        member = zlib.decompressobj(31)
        while head and not member.eof:
            member.decompress(head)
            head = stream.read(_CHUNK)
        return not member.eof or bool(member.unused_data.strip(b"\0")) or bool(stream.read(1).strip(b"\0"))
    close = head.find(b"\r\n\r\n")
    length = _content_length(head[:close]) if close >= 0 else None
    return length is None or begin + close + 4 + length > stream.seek(0, io.SEEK_END)
