"""Exactly once: however files are cut and whoever reads the pieces, the same texts come in, each one time."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.stage import StageRun
from danlu.core.workers import Workers
from danlu.data.measure import MeasureConfig, measure
from danlu.data.measured import read_measured
from danlu.data.measuring import walk as measuring
from tests.data.canaries import chinese
from tests.data.formats.warcs import record

Found = Counter[tuple[str, str, str]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Formats that are cut (jsonl, parquet, WARC, arrow), and that are not (txt, csv, gz)."""
    pytest.importorskip("fastwarc")
    draw = random.Random(12)
    folder = tmp_path_factory.mktemp("in")
    texts = [chinese(draw, 3) for _ in range(140)]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts[:40]]
    lines[5], lines[17] = '{"text": "half', ""
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[:9]).encode()))
    table = pa.table({"text": texts[40:80]})
    pq.write_table(table, folder / "c.parquet", row_group_size=3)
    with pa.ipc.new_file(folder / "d.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    pages = [record(f"http://a/{i}", text.encode(), kind="text/plain") for i, text in enumerate(texts[80:110])]
    (folder / "e.warc").write_bytes(b"".join(pages))
    (folder / "f.warc.gz").write_bytes(b"".join(map(gzip.compress, pages)))
    for i, text in enumerate(texts[110:]):
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    (folder / "empty.jsonl").write_text("")
    return str(folder)


def _found(folder: Path, source: str, piece_bytes: int, workers: int) -> Found:
    """(id, reason, text) of everything, with how often it came."""
    run = StageRun.for_test(folder)
    run.workers = Workers(workers)
    before, measuring.PIECE_BYTES = measuring.PIECE_BYTES, piece_bytes
    try:
        measure(MeasureConfig(source=source, max_document_chars=1_000), run)
    finally:
        measuring.PIECE_BYTES = before
    batches = read_measured(run.out, ["id", "reason", "text"])
    return Counter(tuple(row.values()) for batch in batches for row in batch.to_pylist())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, source: str) -> Found:
    return _found(tmp_path_factory.mktemp("whole"), source, 1 << 30, workers=1)


def test_everything_is_there_once(whole: Found) -> None:
    # rows, packed rows, parquet, arrow, pages twice, files, and that one is empty
    assert len(whole) == 39 + 9 + 40 + 40 + 30 + 30 + 30 + 1
    assert set(whole.values()) == {1}


@settings(max_examples=6)
@given(piece_bytes=st.one_of(st.integers(64, 4_000), st.integers(4_000, 60_000)))
def test_any_size_of_piece_gives_the_same_texts(
    tmp_path_factory: pytest.TempPathFactory, source: str, whole: Found, piece_bytes: int
) -> None:
    assert _found(tmp_path_factory.mktemp("cut"), source, piece_bytes, workers=1) == whole


@pytest.mark.parametrize(("workers", "piece_bytes"), [(2, 12_000), (3, 5_000)])
def test_any_number_of_workers_gives_the_same_texts(
    tmp_path: Path, source: str, whole: Found, workers: int, piece_bytes: int
) -> None:
    assert _found(tmp_path, source, piece_bytes, workers) == whole
