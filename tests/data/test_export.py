"""Exports of a corpus, each read back by the format's own rules."""

from __future__ import annotations

import gzip
import json
import struct
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from danlu.core.artifact import sha256_file
from danlu.core.errors import UserError
from danlu.data.document import Document, write_documents
from danlu.data.export import FORMATS, example, export_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rows = [
        Document(f"{i:016x}", f"第{i}页，白日依山尽。\n" * (i + 1), "zh", "test", "CC0-1.0", {"n": i}) for i in range(7)
    ]
    write_documents(folder, "train", rows[:5])
    write_documents(folder, "validation", rows[5:])
    (folder / "rejected-00000.parquet").write_bytes((folder / "train-00000.parquet").read_bytes())
    return folder


def _export(corpus: Path, folder: Path, to: str) -> Path:
    folder.mkdir()
    assert export_corpus(corpus, folder, to, rows_per_file=3) == {"train": 5, "validation": 2}
    return folder


def test_jsonl(corpus: Path, tmp_path: Path) -> None:
    out = _export(corpus, tmp_path / "out", "jsonl")
    assert sorted(p.name for p in out.iterdir()) == [
        "train-00000.jsonl.gz", "train-00001.jsonl.gz", "validation-00000.jsonl.gz",
    ]  # fmt: skip
    lines = gzip.decompress((out / "train-00001.jsonl.gz").read_bytes()).decode().splitlines()
    assert json.loads(lines[0])["meta"] == {"n": 3} and len(lines) == 2


def test_parquet(corpus: Path, tmp_path: Path) -> None:
    out = _export(corpus, tmp_path / "out", "parquet")
    assert pq.read_table(out / "train-00001.parquet")["id"].to_pylist() == [f"{3:016x}", f"{4:016x}"]


def _crc32c(data: bytes) -> int:
    """Castagnoli's polynomial, bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def _unmask(value: int) -> int:
    rotated = (value - 0xA282EAD8) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF


def test_tfrecord(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("google_crc32c")
    data = (_export(corpus, tmp_path / "out", "tfrecord") / "train-00000.tfrecord").read_bytes()
    records = []
    while data:
        (length,), (checksum,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        assert _unmask(checksum) == _crc32c(data[:8])
        record, (checksum,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert _unmask(checksum) == _crc32c(record)
        records.append(record)
        data = data[16 + length :]
    assert len(records) == 3 and "白日依山尽".encode() in records[0]


def test_an_example_by_hand() -> None:
    value = bytes([0x0A, 1]) + b"x"  # BytesList: field 1, one byte
    feature = bytes([0x0A, len(value)]) + value  # Feature: bytes_list
    entry = bytes([0x0A, 1]) + b"a" + bytes([0x12, len(feature)]) + feature  # key, value
    features = bytes([0x0A, len(entry)]) + entry
    assert example({"a": b"x"}) == bytes([0x0A, len(features)]) + features
    assert example({"a": b"x" * 300})[:3] == bytes([0x0A, 0xBB, 0x02])  # 315 = 0x3B + 2 * 0x80


def test_webdataset(corpus: Path, tmp_path: Path) -> None:
    out = _export(corpus, tmp_path / "out", "webdataset")
    with tarfile.open(out / "train-00000.tar") as archive:
        names = archive.getnames()
        assert names[:2] == [f"{0:016x}.txt", f"{0:016x}.json"] and len(names) == 6
        text = archive.extractfile(names[2])
        assert text is not None and text.read().decode() == "第1页，白日依山尽。\n" * 2


def test_nanochat(corpus: Path, tmp_path: Path) -> None:
    out = _export(corpus, tmp_path / "out", "nanochat")
    shards = sorted(out.iterdir())
    assert [p.name for p in shards] == ["shard_00000.parquet", "shard_00001.parquet"]
    assert [pq.read_table(p).column_names for p in shards] == [["text"]] * 2
    assert pq.read_table(shards[-1]).num_rows == 2, "the last shard is the held-out one"


@pytest.mark.parametrize("to", FORMATS)
def test_the_same_corpus_gives_the_same_bytes(corpus: Path, tmp_path: Path, to: str) -> None:
    if to == "tfrecord":
        pytest.importorskip("google_crc32c")
    one, two = _export(corpus, tmp_path / "one", to), _export(corpus, tmp_path / "two", to)
    assert {p.name: sha256_file(p) for p in one.iterdir()} == {p.name: sha256_file(p) for p in two.iterdir()}


def test_what_cannot_be_exported(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='cannot be exported to "csv"'):
        export_corpus(corpus, tmp_path, "csv")
    (tmp_path / "empty").mkdir()
    write_documents(tmp_path / "empty", "rejected", [Document("0" * 16, "x", "en", "test")])
    with pytest.raises(UserError, match="no documents"):
        export_corpus(tmp_path / "empty", tmp_path, "jsonl")
