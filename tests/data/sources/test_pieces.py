from __future__ import annotations

import bz2
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from danlu.data.formats.item import Broken, Item
from danlu.data.sources.find import SourceFile, find_files
from danlu.data.sources.pieces import Piece, cut_at, group, pieces, read_piece
from tests.data.formats.warcs import record

TEXTS = [f"{i}. 白日依山尽，黄河入海流。{'欲穷千里目 ' * (i % 7)}" for i in range(60)]


def _jsonl(encoding: str) -> bytes:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS]
    lines[7] = '{"text": "broken'
    lines[8] = ""
    return ("\r\n".join(lines[:30]) + "\n" + "\n".join(lines[30:])).encode(encoding)


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": TEXTS}), sink, row_group_size=7)
    return bytes(sink.getvalue().to_pybytes())


def _arrow(stream: bool) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"text": TEXTS, "n": list(range(len(TEXTS)))})
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return bytes(sink.getvalue().to_pybytes())


def _warc_records() -> list[bytes]:
    quoting = record(
        "http://a/quote", b"see\r\n\r\nWARC/1.0\r\nWARC-Type: response\r\n\r\n" + b"x" * 40, kind="text/plain"
    )
    return [record(f"http://a/{i}", text.encode(), kind="text/plain") for i, text in enumerate(TEXTS)] + [quoting]


def _wiki() -> list[str]:
    pages = [
        f"  <page>\n    <title>条目{i}</title>\n    <ns>{4 if i == 3 else 0}</ns>\n    <id>{100 + i}</id>\n"
        f"    <revision><id>9{i}</id><text>'''{text}''' [[链接|文字]]。</text></revision>\n  </page>\n"
        for i, text in enumerate(TEXTS)
    ]
    return ["<mediawiki>\n  <siteinfo><sitename>维基</sitename></siteinfo>\n", *pages, "</mediawiki>\n"]


def _multistream(parts: list[str], size: int) -> bytes:
    streams = [parts[0], *("".join(parts[i : i + size]) for i in range(1, len(parts), size))]
    return b"".join(bz2.compress(stream.encode()) for stream in streams)


FILES: dict[str, Callable[[], bytes]] = {
    "a.jsonl": lambda: _jsonl("utf-8"),
    "gb.jsonl": lambda: _jsonl("gb18030"),
    "wide.jsonl": lambda: _jsonl("utf-16"),
    "a.jsonl.gz": lambda: gzip.compress(_jsonl("utf-8")),
    "a.csv": lambda: ("text\n" + "".join(f'"{text}\n{text}"\n' for text in TEXTS)).encode(),
    "a.parquet": _parquet,
    "a.feather": lambda: _arrow(stream=False),
    "a.arrow": lambda: _arrow(stream=True),
    "a.warc": lambda: b"".join(_warc_records()),
    "a.warc.gz": lambda: b"".join(gzip.compress(part) for part in _warc_records()),
    "whole.warc.gz": lambda: gzip.compress(b"".join(_warc_records())),
    "a.xml": lambda: "".join(_wiki()).encode(),
    "a.xml.bz2": lambda: _multistream(_wiki(), 5),
    "whole.xml.bz2": lambda: bz2.compress("".join(_wiki()).encode()),
    "a.txt": lambda: "\n".join(TEXTS).encode(),
}
CUT = {"a.jsonl", "gb.jsonl", "a.parquet", "a.feather", "a.arrow", "a.warc", "a.warc.gz", "a.xml", "a.xml.bz2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    for name, make in FILES.items():
        (folder / name).write_bytes(make())
    return folder


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(FILES)), shares=st.lists(st.floats(0, 1), max_size=6))
def test_any_cut_gives_what_the_whole_file_gives(folder: Path, name: str, shares: list[float]) -> None:
    file = SourceFile("s", name, folder / name)
    size = (folder / name).stat().st_size
    parts = cut_at(file, sorted(int(share * size) for share in shares))
    read = [item for part in parts for item in read_piece(Piece.from_json(json.loads(json.dumps(part.to_json()))))]
    assert read == list(file.read())
    assert sum(part.size for part in parts) == size


@pytest.mark.parametrize("name", sorted(FILES))
def test_what_can_be_cut_is_cut_and_places_are_unique(folder: Path, name: str) -> None:
    file = SourceFile("s", name, folder / name)
    parts = pieces(file, 500)
    assert (len(parts) > 3) == (name in CUT), name
    items = list(file.read())
    assert len({item.place for item in items}) == len(items)
    texts = [item.text for item in items if isinstance(item, Item)]
    assert len(texts) >= 58 or name == "a.txt"


def test_line_numbers_do_not_depend_on_the_cut(folder: Path) -> None:
    broken = [
        (item.place, item.reason)
        for part in pieces(SourceFile("s", "a.jsonl", folder / "a.jsonl"), 300)
        for item in read_piece(part)
        if isinstance(item, Broken)
    ]
    assert broken == [(":8", "broken_line")]


def test_small_pieces_are_gathered_and_large_ones_stay_alone() -> None:
    sizes = [10, 20, 30, 100, 5, 5, 5]
    all_pieces = [Piece(SourceFile("s", str(i), Path(str(i))), size=size) for i, size in enumerate(sizes)]
    tasks = list(group(all_pieces, 60))
    assert [[piece.size for piece in task] for task in tasks] == [[10, 20, 30], [100], [5, 5, 5]]
    assert max(map(len, group(all_pieces, 1_000, most=2))) == 2


@pytest.mark.parametrize("seed", range(12))
def test_damaged_files_read_the_same_cut_or_whole(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    for name in sorted(CUT - {"a.warc"}):
        data = bytearray(FILES[name]())
        for _ in range(3):
            data[source.randrange(len(data) * 9 // 10)] = source.randrange(256)
        (tmp_path / name).write_bytes(data)
        file = SourceFile("s", name, tmp_path / name)
        whole = list(file.read())
        for target in (150, 2_000):
            read = [item for part in pieces(file, target) for item in read_piece(part)]
            if name != "a.xml.bz2":
                assert read == whole, (name, seed, target)
            else:  # a damaged bzip2 stream costs the rest of its piece, which is less than the rest of the file
                assert {item.place for item in whole if isinstance(item, Item)} <= {
                    item.place for item in read if isinstance(item, Item)
                }


def test_a_file_that_is_not_there_is_one_piece_and_counted(tmp_path: Path) -> None:
    (part,) = pieces(SourceFile("s", "gone.jsonl", tmp_path / "gone.jsonl"))
    assert [item.reason for item in read_piece(part) if isinstance(item, Broken)] == ["unreadable"]


def test_an_object_store_is_cut_like_a_disk() -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe("/pieces/a.jsonl", FILES["a.jsonl"]())
    (file,) = find_files("memory://pieces")
    parts = pieces(file, 300)
    assert len(parts) > 3
    assert [item for part in parts for item in read_piece(Piece.from_json(part.to_json()))] == list(file.read())
