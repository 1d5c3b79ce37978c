"""The body of an HTTP answer as it was meant: chunks put together, compression undone, both with a limit.

    Transfer-Encoding: chunked     4\\r\\nWiki\\r\\n0\\r\\n\\r\\n        RFC 9112, section 7.1
    Content-Encoding: gzip, br     in the order they were applied     RFC 9110, section 8.4

Archives are full of headers that no longer hold, because whoever wrote them stored the body decoded and the headers as
they came. So each step looks whether the bytes are what the header says, and leaves them alone where they are not.

fastwarc has a decoder, but (2.0.1) a body that is both chunked and compressed silently ends the iteration of the whole
archive; `test_warc` has that case.
"""

from __future__ import annotations

import importlib.util
import re
import zlib

_CHUNK_HEAD = re.compile(rb"\s*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,200})?\r?\n")


class BodyError(ValueError):
    """Why a body cannot be decoded."""


def decode_body(data: bytes, transfer_encoding: str, content_encoding: str, limit: int) -> bytes:
    """The decoded body, cut behind `limit` bytes. Raises BodyError for damaged or unknown compression."""
    if "chunked" in transfer_encoding.lower():
        data = _unchunked(data)
    for name in reversed([part.strip().lower() for part in content_encoding.split(",")]):
        if name in ("gzip", "x-gzip") and data[:2] == b"\x1f\x8b":
            data = _inflate(data, 31, limit)
        elif name == "deflate":
            data = _inflate(data, 15 if data[:1] in (b"\x78", b"\x58", b"\x08") else -15, limit)
        elif name == "br":
            data = _brotli(data, limit)
        elif name not in ("", "identity", "gzip", "x-gzip", "none", "utf-8"):
            raise BodyError(f"content encoding {name}")
    return data[:limit]


def _unchunked(data: bytes) -> bytes:
    parts: list[bytes] = []
    position = 0
    while found := _CHUNK_HEAD.match(data, position):
        size = int(found[1], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(data[found.end() : found.end() + size])
        position = found.end() + size
    return b"".join(parts) if parts else data


def _inflate(data: bytes, window: int, limit: int) -> bytes:
    unpacker = zlib.decompressobj(window)
    try:
        return unpacker.decompress(data, limit)
    except zlib.error as error:
        raise BodyError(str(error)) from None


def _brotli(data: bytes, limit: int) -> bytes:
    if not importlib.util.find_spec("brotli"):
        raise BodyError("brotli is not installed")
    import brotli  # type: ignore[import-untyped,import-not-found,unused-ignore]

    parts: list[bytes] = []
    unpacker = brotli.Decompressor()
    try:
        for start in range(0, len(data), 4096):  # a little can be a lot: look at the sum in between
            parts.append(unpacker.process(data[start : start + 4096]))
            if sum(map(len, parts)) >= limit:
                break
    except brotli.error as error:
        raise BodyError(f"brotli: {error}") from None
    return b"".join(parts)
