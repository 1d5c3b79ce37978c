from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.data.formats.extract import FORMATS, Broken, Item, extract, read_records

POEM = "春眠不覺曉，處處聞啼鳥。\n夜來風雨聲，花落知多少。"


def _texts(path: Path, **options: Any) -> list[str]:
    return [item.text for item in extract(path, **options) if isinstance(item, Item)]


def _broken(path: Path) -> list[Broken]:
    return [item for item in extract(path) if isinstance(item, Broken)]


def _zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_every_plain_format_plain_and_compressed(tmp_path: Path, suffix: str) -> None:
    pack = {"": bytes, ".gz": gzip.compress, ".zst": _zstd}[suffix]
    table = pa.table({"text": [POEM, "second"], "n": [1, 2]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    quoted = '"' + POEM + '"'
    files = {
        "a.txt": POEM.encode(),
        "a.md": f"# 春曉\n\n{POEM}".encode(),
        "a.py": b"print('hi')\n",
        "a.jsonl": f"{json.dumps({'text': POEM}, ensure_ascii=False)}\n\n{json.dumps('second')}\n".encode(),
        "a.json": json.dumps([{"content": POEM}, {"content": "second"}]).encode(),
        "a.csv": f"n,text\n1,{quoted}\n2,second\n".encode(),
        "a.tsv": f"n\ttext\n1\t{quoted}\n2\tsecond\n".encode(),
        "a.parquet": sink.getvalue().to_pybytes(),
    }
    for name, data in files.items():
        path = tmp_path / (name + suffix)
        path.write_bytes(pack(data))
        assert not _broken(path), name
        expected = {"a.py": ["print('hi')\n"], "a.txt": [POEM], "a.md": [f"# 春曉\n\n{POEM}"]}
        assert _texts(path) == expected.get(name, [POEM, "second"]), name


def test_languages_of_code_come_from_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.rs").write_text("fn main() {}")
    (item,) = extract(tmp_path / "a.rs")
    assert isinstance(item, Item) and item.language == "code:rust"


def test_html_gives_its_main_text(tmp_path: Path) -> None:
    pytest.importorskip("trafilatura")
    body = "".join(f"<p>第{i}段：数据比结构更重要，先把网页里的正文取出来，再去掉导航和广告。</p>" for i in range(5))
    page = f"<html><head><title>数据</title></head><body><nav>首页 登录</nav><article>{body}</article></body></html>"
    path = tmp_path / "page.html"
    path.write_bytes(page.encode("gb18030"))
    (item,) = extract(path)
    assert isinstance(item, Item)
    assert "第3段" in item.text and "登录" not in item.text


def test_a_broken_line_is_kept_aside_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        b'{"text": "one"}',
        b'{"text": "tw',
        b"\xff\xfe\xff garbage",
        b'{"title": "no text here"}',
        b'{"text": "five"}',
    ]
    path.write_bytes(b"\n".join(lines))
    assert _texts(path) == ["one", "five"]
    assert [(b.place, b.reason) for b in _broken(path)] == [
        (":2", "broken_line"),
        (":3", "broken_line"),
        (":4", "no_text"),
    ]
    assert _broken(path)[0].text == '{"text": "tw'


def test_a_long_jsonl_is_read_beyond_the_sample_for_its_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = [f"第{i}行：天地玄黄，宇宙洪荒。" for i in range(4_000)]
    path.write_bytes("\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts).encode("gb18030"))
    assert _texts(path) == texts
    path.write_bytes("\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts).encode("utf-16"))
    assert _texts(path) == texts


def test_csv_rows_of_the_wrong_width_are_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,one\n2,two,three\n4,"four, with a comma"\n')
    assert _texts(path) == ["one", "four, with a comma"]
    assert [(b.place, b.reason) for b in _broken(path)] == [(":3", "broken_line")]


def test_the_field_of_the_text_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "no", "正文": "yes"}\n{"text": "only the other"}\n')
    assert _texts(path, text_field="正文") == ["yes"]


def test_short_facts_travel_as_meta(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "t", "title": "春曉", "url": "x" * 1000, "vote": 3}))
    (item,) = extract(path)
    assert isinstance(item, Item) and item.meta == {"title": "春曉"}


@pytest.mark.parametrize("name", ["a.png", "README", "a.7z.gz"])
def test_unknown_formats_are_counted_not_fatal(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"data")
    assert [b.reason for b in _broken(tmp_path / name)] == ["unknown_format"]


def test_a_missing_html_reader_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.html").write_text("<p>x</p>")
    monkeypatch.setitem(__import__("sys").modules, "trafilatura", None)
    with pytest.raises(UserError, match=r"danlu\[html\]"):
        list(extract(tmp_path / "a.html"))


def test_records_want_a_file_of_records(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="not a file of records"):
        list(read_records(tmp_path / "a.txt"))


_FUZZED = sorted(suffix for suffix in FORMATS if FORMATS[suffix].records or suffix in (".txt", ".html"))


@settings(max_examples=150, deadline=None)
@given(
    suffix=st.sampled_from([name + packed for name in _FUZZED for packed in ("", ".gz", ".zst")]),
    data=st.one_of(
        st.binary(max_size=300),
        st.text(alphabet='{}[]",:\\ntex0\n天', max_size=200).map(lambda text: text.encode()),
        st.sampled_from(
            [b"", b"PAR1", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"[" * 100_000, b'"' * 3, b"\xef\xbb\xbf"]
        ),
    ),
)
def test_no_file_can_crash_a_reader(tmp_path_factory: pytest.TempPathFactory, suffix: str, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    path.write_bytes(data)
    for item in extract(path):
        assert isinstance(item, Item | Broken)


def test_truncated_files_are_counted(tmp_path: Path) -> None:
    data = "\n".join(json.dumps({"text": f"line {i} " + "x" * (i % 97)}) for i in range(3_000)).encode()
    for suffix, packed in ((".gz", gzip.compress(data)), (".zst", _zstd(data))):
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(packed[: len(packed) // 2])
        assert [b.reason for b in _broken(path)][-1] == "unreadable", suffix
