"""What each family of formats gives for small files written by hand."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from danlu.data.formats.extract import FORMATS, Broken, Item, extract
from tests.data.formats import files
from tests.data.formats.files import POEM, docx, line, paragraph, pdf, tarred, zipped


def _read(folder: Path, name: str, data: bytes) -> list[Item | Broken]:
    (folder / name).write_bytes(data)
    return list(extract(folder / name))


def _item(folder: Path, name: str, data: bytes) -> Item:
    (item,) = _read(folder, name, data)
    assert isinstance(item, Item), item
    return item


@pytest.mark.parametrize("name", sorted(files.samples()))
def test_a_good_file_of_every_format_has_texts_and_nothing_broken(tmp_path: Path, name: str) -> None:
    found = _read(tmp_path, name, files.samples()[name])
    assert any(isinstance(item, Item) and item.text for item in found)
    assert {item.reason for item in found if isinstance(item, Broken)} <= {"redirect", "namespace"}


def test_the_samples_cover_the_table() -> None:
    suffixes = {"." + name.partition(".")[2] for name in files.samples()}
    same_reader = {".text", ".markdown", ".rst", ".htm", ".xhtml", ".ndjson", ".wet.gz"}
    assert {suffix for suffix, form in FORMATS.items() if not form.language} - same_reader <= suffixes


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.xml", "a.tar", "a.pdf"])
def test_xz_and_bz2_around_any_format(tmp_path: Path, name: str) -> None:
    import bz2

    data = files.samples()[name]
    plain = _read(tmp_path, name, data)
    assert _read(tmp_path, name + ".xz", lzma.compress(data)) == plain
    assert _read(tmp_path, name + ".bz2", bz2.compress(data)) == plain


# ---- documents -------------------------------------------------------------------------------------------------


def test_word_headings_lists_and_tables(tmp_path: Path) -> None:
    cell = "<w:tc>{}</w:tc>"
    row = "<w:tr>" + cell + cell + "</w:tr>"
    body = (
        paragraph("春晓", style="a3")
        + paragraph("第一段。")
        + paragraph("甲", numbering="1")
        + paragraph("乙", numbering="1")
        + paragraph("点", numbering="2", depth=1)
        + "<w:tbl>" + row.format(paragraph("名"), paragraph("数")) + row.format(paragraph("炉"), paragraph("1")) + "</w:tbl>"
        + "<w:p><w:del><w:r><w:delText>旧</w:delText></w:r></w:del><w:ins><w:r><w:t>新</w:t></w:r></w:ins></w:p>"
    )  # fmt: skip
    item = _item(tmp_path, "a.docx", docx(body))
    assert item.text == "# 春晓\n\n第一段。\n\n1. 甲\n1. 乙\n  - 点\n\n| 名 | 数 |\n| --- | --- |\n| 炉 | 1 |\n\n新"
    assert item.meta == {"title": "登记表"}


def test_the_chapters_of_a_book_in_the_order_of_reading(tmp_path: Path) -> None:
    item = _item(tmp_path, "a.epub", files.epub())
    assert item.text == "# 第一章\n\n春眠不覺曉\n\n# 第二章\n\n夜來風雨聲"
    assert item.meta == {"title": "两章", "author": "无名", "chapters": 2}


def test_pdf_text_tables_pages_and_running_lines(tmp_path: Path) -> None:
    item = _item(tmp_path, "a.pdf", files.samples()["a.pdf"])
    assert "Hello world" in item.text and "春眠不覺曉" in item.text
    assert "| a | b |\n| --- | --- |\n| 1 | 2 |" in item.text
    pages = [line("The Book", 50, 380) + line(f"Sentence number {word}.", 50, 340) + line(f"Page {i}", 50, 20)
             for i, word in enumerate(("one", "two", "three", "four", "five"))]  # fmt: skip
    item = _item(tmp_path, "b.pdf", pdf(pages))
    assert "The Book" not in item.text and "Page" not in item.text
    assert item.meta["pages"] == 5 and item.meta["running_lines"] == 10
    assert [item.text[start:].split(".")[0].split()[-1] for start in item.meta["page_starts"]] == [
        "one", "two", "three", "four", "five",
    ]  # fmt: skip


def test_a_scan_is_counted(tmp_path: Path) -> None:
    assert [item.reason for item in _read(tmp_path, "a.pdf", pdf(["", ""])) if isinstance(item, Broken)] == ["no_text"]


def test_notebooks_without_their_outputs(tmp_path: Path) -> None:
    item = _item(tmp_path, "a.ipynb", files.notebook())
    assert item.text == "# 标题\n说明\n\n```python\nprint(1)\n```"


# ---- wikis, mail, chats ----------------------------------------------------------------------------------------


def test_articles_of_a_dump_and_what_is_none(tmp_path: Path) -> None:
    found = _read(tmp_path, "a.xml", files.wiki().encode())
    assert [(item.place, item.reason if isinstance(item, Broken) else item.text.split("\n")[0]) for item in found] == [
        ("#7", "# 丹炉"), ("#8", "redirect"), ("#9", "namespace"), ("#10", "# 春晓"),
    ]  # fmt: skip
    first = found[0]
    assert isinstance(first, Item) and first.text == "# 丹炉\n\n丹炉是炼丹的炉子。"
    assert first.meta["categories"] == ["炉"] and first.licence == "CC-BY-SA-4.0"
    assert [item.reason for item in _read(tmp_path, "b.xml", b"<other><a/></other>") if isinstance(item, Broken)] == [
        "unknown_format"
    ]


def test_mail_without_quotes_and_signature(tmp_path: Path) -> None:
    first, second = _read(tmp_path, "a.mbox", files.mbox())
    assert isinstance(first, Item) and isinstance(second, Item)
    assert first.text == POEM + "\nFrom here" and first.meta["title"] == "春晓" and first.place == "@0"
    assert second.text == "I agree.\n\nRegards" and second.meta["quoted_lines"] == 2
    html = b"Subject: x\nContent-Type: text/html; charset=gb2312\n\n<p>" + "正文".encode("gb2312") + b"</p>"
    assert _item(tmp_path, "a.eml", html).text == "正文"


def test_chats_as_conversations(tmp_path: Path) -> None:
    first, second = _read(tmp_path, "a.json", files.telegram())
    assert isinstance(first, Item) and first.text == "小明: 几点出发？\n小红: 八点，老地方"
    assert first.place == "#2026-01-01T10:00:05" and first.meta["title"] == "出游"
    assert isinstance(second, Item) and second.text == "小明: 到了"
    slack = [{"type": "message", "ts": f"{1.7e9 + i}", "user": f"U{i}", "text": "see <https://x.y|this>"} for i in (1, 2)]
    assert _item(tmp_path, "s.json", json.dumps(slack).encode()).text == "U1: see this\nU2: see this"
    wechat = [{"CreateTime": 1.7e9 + i, "StrContent": f"第{i}句", "IsSender": i, "StrTalker": "小红", "Type": 1} for i in (0, 1)]
    assert _item(tmp_path, "w.json", json.dumps(wechat).encode()).text == "小红: 第0句\n我: 第1句"
    text = "2026-01-01 10:00:00 小明\n几点？\n\n2026-01-01 10:01:00 小红\n八点\n[图片]\n"
    assert _item(tmp_path, "w.txt", text.encode()).text == "小明: 几点？\n小红: 八点\n[图片]"
    whatsapp = "12/31/25, 10:01 PM - Messages are encrypted.\n12/31/25, 10:01 PM - A: hi\nthere\n12/31/25, 10:02 PM - B: <Media omitted>\n"
    item = _item(tmp_path, "wa.txt", (whatsapp + "12/31/25, 10:03 PM - B: yo\n").encode())
    assert item.text == "A: hi\nthere\nB: yo" and item.meta["date"] == "2025-12-31T22:01:00"


def test_a_text_that_only_mentions_times_is_no_chat(tmp_path: Path) -> None:
    text = "会议记录\n2026-01-01 10:00:00 开始\n讨论了三个问题。\n下次再谈。\n结束"
    assert _item(tmp_path, "a.txt", text.encode()).text == text


# ---- archives --------------------------------------------------------------------------------------------------


def test_members_of_archives_keep_their_places(tmp_path: Path) -> None:
    rows = b'{"text": "one"}\n{"text": "two"}\n'
    members = {"a/b.jsonl": rows, "c.png": b"x", ".hidden.txt": b"x", "d.txt": b"three"}
    for name, data in (("a.zip", zipped(dict(members))), ("a.tar", tarred(members))):
        found = [(item.place, getattr(item, "text", ""), getattr(item, "reason", "")) for item in _read(tmp_path, name, data)]
        assert found == [
            ("!a/b.jsonl:1", "one", ""), ("!a/b.jsonl:2", "two", ""), ("!c.png", "", "unknown_format"), ("!d.txt", "three", ""),
        ]  # fmt: skip


def test_tricks_of_archives_are_harmless(tmp_path: Path) -> None:
    members = {"../evil.txt": b"x", "/etc/evil.txt": b"x", "inner.zip": zipped({"a.txt": "x"}), "good.txt": b"good"}
    for name, data in (("a.zip", zipped(dict(members))), ("a.tar", tarred(members))):
        reasons = [item.reason if isinstance(item, Broken) else item.text for item in _read(tmp_path, name, data)]
        assert sorted(reasons) == ["good", "nested_archive", "unsafe_path", "unsafe_path"], name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "a.zip"]


def test_a_bomb_ends_where_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.data.formats.archives._RATIO_FROM", 1 << 16)
    monkeypatch.setattr("danlu.data.formats.archives._MAX_RATIO", 100)
    data = zipped({"bomb.txt": b"\0" * (1 << 22), "good.txt": b"good"})
    found = _read(tmp_path, "a.zip", data)
    assert [item.reason if isinstance(item, Broken) else item.text for item in found] == ["too_large", "good"]
