from __future__ import annotations

import gzip
from pathlib import Path

from danlu.data.formats.extract import Broken, Item, extract
from tests.data.formats.pages import planted
from tests.data.formats.warcs import record

PAGE = planted()[4].html  # a Chinese article


def _read(folder: Path, *records: bytes, name: str = "a.warc.gz") -> list[Item | Broken]:
    data = b"".join(map(gzip.compress, records)) if name.endswith(".gz") else b"".join(records)
    (folder / name).write_bytes(data)
    return list(extract(folder / name))


def test_facts_of_a_record_travel_as_meta(tmp_path: Path) -> None:
    request = record("http://a/1", b"GET / HTTP/1.1\r\n\r\n", warc_type="request", kind="application/http")
    (item,) = _read(tmp_path, request, record("http://a/1", PAGE.encode()))
    assert isinstance(item, Item)
    assert item.place == f"@{len(gzip.compress(request))}"
    assert item.meta == {
        "url": "http://a/1",
        "date": "2026-01-02T03:04:05Z",
        "content_type": "text/html",
        "content_length": len(PAGE.encode()),
        "title": "港口",
    }


def test_what_is_no_page_is_counted_with_its_reason(tmp_path: Path) -> None:
    found = _read(
        tmp_path,
        record("http://a/1", b"gone", status="404 Not Found"),
        record("http://a/2", b"png", kind="image/png"),
        record("http://a/3", PAGE.encode(), headers="X-Robots-Tag: noai\r\n"),
        record("http://a/4", PAGE.encode(), headers="TDM-Reservation: 1\r\n"),
        record("http://a/5", b""),
        record("http://a/6", b"words of a text", kind="text/plain", headers="X-Robots-Tag: noindex\r\n"),
        name="a.warc",
    )
    reasons = [item.reason for item in found if isinstance(item, Broken)]
    assert reasons == ["http_status", "content_type", "robots", "robots", "empty", "robots"]


def test_bodies_in_chunks_compressed_and_in_other_charsets(tmp_path: Path) -> None:
    packed = gzip.compress(PAGE.encode())
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (packed[:100], packed[100:])) + b"0\r\n\r\n"
    found = _read(
        tmp_path,
        record("http://a/1", packed, headers="Content-Encoding: gzip\r\n"),
        record("http://a/2", chunks, headers="Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
        record("http://a/3", PAGE.replace("utf-8", "gbk").encode("gb18030"), kind="text/html; charset=gb2312"),
    )
    texts = {item.text for item in found if isinstance(item, Item)}
    assert len(found) == 3 and len(texts) == 1 and "潜水员测绘了海床" in texts.pop()


def test_wet_files_hold_texts(tmp_path: Path) -> None:
    text = "白日依山尽，黄河入海流。"
    (item,) = _read(
        tmp_path, record("http://a/1", text.encode(), kind="text/plain", warc_type="conversion"), name="a.wet.gz"
    )
    assert isinstance(item, Item) and item.text == text and item.meta["url"] == "http://a/1"


def test_reading_goes_on_behind_damage(tmp_path: Path) -> None:
    records = [gzip.compress(record(f"http://a/{i}", f"text number {i}".encode(), kind="text/plain")) for i in range(5)]
    records[2] = records[2][:40] + b"\xff" * 60 + records[2][100:]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(records))
    found = list(extract(tmp_path / "a.warc.gz"))
    assert [item.text for item in found if isinstance(item, Item)] == [f"text number {i}" for i in (0, 1, 3, 4)]
    assert any(isinstance(item, Broken) and item.reason == "unreadable" for item in found)
