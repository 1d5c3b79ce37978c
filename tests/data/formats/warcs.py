"""WARC records written by hand, for tests."""

from __future__ import annotations


def record(
    url: str,
    body: bytes,
    *,
    kind: str = "text/html; charset=utf-8",
    status: str = "200 OK",
    headers: str = "",
    warc_type: str = "response",
) -> bytes:
    """One record: the answer of a server, or (other types) the body alone."""
    if warc_type == "response":
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        block, content_type = head.encode() + body, "application/http; msgtype=response"
    else:
        block, content_type = body, kind
    return (
        (
            f"WARC/1.0\r\nWARC-Type: {warc_type}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
            f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{len(url):012d}>\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
        ).encode()
        + block
        + b"\r\n\r\n"
    )
