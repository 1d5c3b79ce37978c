"""Writing WARC: one gzip member a record, appended, so that a killed crawl loses at most the record it was writing.

    warcinfo   who crawled, with what
    response   status line, headers and body as they came; WARC-Payload-Digest, WARC-IP-Address
    ...

A body that came in chunks was put together by the client, so its Transfer-Encoding no longer holds and the header is
renamed. Source: ISO 28500 (WARC 1.1). Written by hand because appending at a byte that is known to be good is all that
is needed.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from danlu.data.sources.fetch import Answer

_RENAMED = ("transfer-encoding", "connection", "keep-alive")


class ArchiveWriter:
    """Appends to `path`, which is cut to `good_bytes` first: what lies behind was not confirmed."""

    def __init__(self, path: Path, good_bytes: int = 0, about: dict[str, str] | None = None) -> None:
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(min(good_bytes, path.stat().st_size))
        self._file.seek(0, os.SEEK_END)
        if self._file.tell() == 0:
            fields = "".join(f"{name}: {value}\r\n" for name, value in (about or {}).items())
            self._append("warcinfo", "application/warc-fields", fields.encode(), {"WARC-Filename": path.name})

    @property
    def length(self) -> int:
        return self._file.tell()

    def add(self, answer: Answer) -> int:
        """Write one answer through to the disk; returns the length of the file, to be noted."""
        body = answer.body or b""
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}".rstrip()]
        for name, value in answer.headers:
            if name.lower() == "content-length":
                continue
            prefix = "X-Archive-" if name.lower() in _RENAMED else ""
            lines.append(f"{prefix}{name}: {' '.join(value.split())}")
        lines.append(f"Content-Length: {len(body)}")
        block = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + body
        self._append(
            "response",
            "application/http; msgtype=response",
            block,
            {"WARC-Target-URI": answer.url, "WARC-IP-Address": answer.address, "WARC-Payload-Digest": digest(body)},
        )
        return self.length

    def _append(self, kind: str, content_type: str, block: bytes, fields: dict[str, str]) -> None:
        head = {
            "WARC-Type": kind,
            "WARC-Record-ID": f"<urn:uuid:{uuid.uuid4()}>",
            "WARC-Date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **fields,
            "WARC-Block-Digest": digest(block),
            "Content-Type": content_type,
            "Content-Length": str(len(block)),
        }
        text = "WARC/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in head.items()) + "\r\n"
        self._file.write(gzip.compress(text.encode() + block + b"\r\n\r\n", 6))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def digest(data: bytes) -> str:
    """The way archives write it: sha1 in base 32."""
    return "sha1:" + base64.b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()
