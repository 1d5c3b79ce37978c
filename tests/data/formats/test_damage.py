"""Every reader on damaged files: truncated, with flipped bits, empty, random, nested beyond reason.

No reader may crash or hang, and what is not read is counted: a damaged file gives items and `Broken`s, never nothing at
all without a reason. The files are drawn from a seed, so a failure repeats; FUZZ_ROUNDS makes the search longer.
"""

from __future__ import annotations

import bz2
import gzip
import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from danlu.data.formats.extract import FORMATS, Broken, Item, extract
from tests.data.formats import files
from tests.data.formats.files import zipped

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "12"))
SECONDS = 20
SAMPLES = files.samples()


@contextmanager
def _limit(what: str) -> Iterator[None]:
    def stop(signum: int, frame: object) -> None:
        raise AssertionError(f"{what} took longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _read(folder: Path, name: str, data: bytes, what: str) -> list[Item | Broken]:
    path = folder / name
    path.write_bytes(data)
    with _limit(f"{name}, {what}"):
        found = list(extract(path))
    for item in found:
        assert isinstance(item, Item | Broken)
        assert not isinstance(item, Broken) or item.reason
    return found


def _damaged(data: bytes, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    for _ in range(ROUNDS // 3 or 1):
        at = draw.randrange(len(data))
        yield f"cut at {at}", data[:at]
    for _ in range(ROUNDS):
        flipped = bytearray(data)
        places = [draw.randrange(len(data)) for _ in range(draw.choice((1, 1, 3, 20)))]
        for at in places:
            flipped[at] ^= 1 << draw.randrange(8)
        yield f"bits flipped at {places}", bytes(flipped)
    at = draw.randrange(len(data))
    yield f"a hole at {at}", data[:at] + data[at + len(data) // 5 :]
    yield f"noise at {at}", data[:at] + draw.randbytes(50) + data[at:]
    yield f"doubled at {at}", data[:at] + data


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_damaged_files_are_read_or_counted(tmp_path: Path, name: str) -> None:
    draw = random.Random(name)
    for what, data in _damaged(SAMPLES[name], draw):
        _read(tmp_path, name, data, what)


@pytest.mark.parametrize("suffix", sorted(set(FORMATS) - {s for s, f in FORMATS.items() if f.language}))
def test_files_of_something_else_are_counted(tmp_path: Path, suffix: str) -> None:
    draw = random.Random(suffix)
    for what, data in (
        ("empty", b""),
        ("random", draw.randbytes(3_000)),
        ("zeros", b"\0" * 300),  # fewer than end an empty tar file
        ("another format", SAMPLES["a.zip"]),
        ("text", "天地玄黄".encode() * 500),
        ("its compressions", gzip.compress(draw.randbytes(100)) + bz2.compress(b"x")),
    ):
        found = _read(tmp_path, f"a{suffix}", data, what)
        text_formats = (".txt", ".text", ".md", ".markdown", ".rst", ".html", ".htm", ".xhtml", ".csv", ".tsv")
        if what in ("random", "zeros", "another format") and suffix not in (".zip", *text_formats):
            assert found and not any(isinstance(item, Item) for item in found), (suffix, what, found[:2])


DEEP = 50_000
NESTED = {
    "a.json": b"[" * DEEP + b"]" * DEEP,
    "b.json": b'{"text":' * DEEP,
    "a.jsonl": b"[" * DEEP + b"\n" + b'{"text": "good"}\n',
    "a.ipynb": b'{"cells":' * DEEP,
    "a.html": b"<div>" * DEEP + b"text " * 100,
    "b.html": b"<table><tr><td>" * 5_000 + b"text " * 100,
    "c.html": b"<b><i><a>" * 5_000 + b"text " * 100,
    "a.xml": b"<mediawiki><page>" + b"<a>" * DEEP + b"</page></mediawiki>",
    "b.xml": b"<mediawiki><page><id>1</id><ns>0</ns><title>t</title><revision><text>"
    + b"{{" * DEEP + b"[[" * DEEP + b"&lt;ref&gt;" * DEEP + b"&lt;math&gt;" * DEEP + b"{|\n" * DEEP + b"-{" * DEEP
    + b"</text></revision></page></mediawiki>",
    "c.xml": b'<!DOCTYPE x [<!ENTITY a "' + b"b" * 1000 + b'"><!ENTITY c "' + b"&a;" * 1000
    + b'">]><mediawiki><page>&c;</page>',
    "a.docx": zipped({"word/document.xml": "<a>" * DEEP}),
    "b.docx": zipped({"word/document.xml": files.docx("")[:0] or "<w:p>" * 100}),
    "a.epub": zipped({"META-INF/container.xml": '<rootfile full-path="META-INF/container.xml"/>'}),
    "a.mbox": b"From x\n" + b"Content-Type: multipart/mixed; boundary=a\n\n--a\n" * 3_000,
    "a.eml": b"Subject: " + b"=?utf-8?q?a?= " * 20_000 + b"\n\n" + b">" * DEEP,
    "b.eml": b"To: " + b"a(" * 20_000 + b"\nContent-Type: text/plain; charset=nonsense\n\nx",
    "a.csv": b'text\n"' + b"a\n" * DEEP,
    "a.pdf": b"%PDF-1.4\n" + b"[" * DEEP,
    "a.txt": ("æ" * DEEP).encode() + b"\n" + ("鏂" * DEEP).encode(),
    "a.md": "Ã©".encode() * DEEP,
    "a.man": b".TH X 1\n" + b".if n " * DEEP,
    "chat.json": json.dumps({"messages": [{"type": "message", "date": [], "from": {}, "text": [[[]]]}] * 3}).encode(),
    "w.json": json.dumps([{"CreateTime": 1e300, "StrContent": "x", "Type": 1}] * 3).encode(),
    "a.tar": b"a" * 100 + b"0" * 412 + b"\xff" * 5_000,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NESTED))
def test_nesting_and_repetition_beyond_reason(tmp_path: Path, name: str) -> None:
    assert _read(tmp_path, name, NESTED[name], "nested")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.bz2", "a.csv.xz", "a.jsonl.zst", "a.warc.gz", "a.xml.bz2"])
def test_a_compressed_file_that_ends_early_is_counted(tmp_path: Path, name: str) -> None:
    import lzma

    import pyarrow as pa

    whole = (
        SAMPLES["a.warc"] if "warc" in name else SAMPLES["a.xml"] * 50 if "xml" in name else SAMPLES["a.jsonl"] * 500
    )
    pack = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    }[name.rpartition(".")[2]]
    data = pack(whole)
    found = _read(tmp_path, name, data[: len(data) * 2 // 3], "ends early")
    assert "unreadable" in {item.reason for item in found if isinstance(item, Broken)}
