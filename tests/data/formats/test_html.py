from __future__ import annotations

import re

import pytest

from danlu.data.formats import html
from danlu.data.formats.html import read_page
from danlu.data.formats.item import Broken, Item
from tests.data.formats.pages import CHINESE, ENGLISH, Page, planted


def _bare(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("page", planted(), ids=lambda page: page.name)
def test_the_main_text_is_found_once_and_the_noise_is_not(page: Page) -> None:
    item = read_page(page.html.encode())
    assert isinstance(item, Item)
    text = _bare(item.text)
    assert [text.count(sentence) for sentence in page.main] == [1] * len(page.main)
    assert [noise for noise in page.noise if noise in text] == []


@pytest.mark.parametrize(
    ("encoding", "header", "meta"),
    [
        ("gb18030", "", ""),
        ("gb18030", "gb2312", ""),
        ("gb18030", "", "gbk"),
        ("gb18030", "iso-8859-1", "gb2312"),  # the header of a server that nobody set up
        ("utf-8", "gbk", ""),
        ("big5", "", "big5"),
        ("big5", "", ""),
        ("utf-16", "", ""),
        ("utf-8-sig", "", "gb2312"),
    ],
)
def test_charsets_of_header_meta_and_content(encoding: str, header: str, meta: str) -> None:
    text = "".join(CHINESE) if not encoding.startswith("big5") else "數據比結構更重要，先把網頁裡的正文取出來。" * 6
    head = f'<meta http-equiv="Content-Type" content="text/html; charset={meta}">' if meta else ""
    page = f"<html><head>{head}<title>港口</title></head><body><article><p>{text}</p></article></body></html>"
    item = read_page(page.encode(encoding), charset=header)
    if header == "iso-8859-1":  # it decodes as anything: only the repair of mojibake or the reader can tell
        assert isinstance(item, Item)
        return
    assert isinstance(item, Item) and item.text == text and item.meta["title"] == "港口"


def _robots(content: str, *, header: str = "", crawled: bool = True, name: str = "robots") -> str:
    page = f'<html><head><meta name="{name}" content="{content}"></head><body><p>{"words " * 40}</p></body></html>'
    item = read_page(page.encode(), robots_header=header, crawled=crawled)
    return item.reason if isinstance(item, Broken) else ""


def test_pages_that_ask_not_to_be_collected() -> None:
    assert _robots("noindex, follow") == _robots("NONE") == _robots("noai") == "robots"
    assert _robots("index", header="noindex") == _robots("index", header="noimageai, noai") == "robots"
    assert _robots("index, follow") == _robots("", header="googlebot: noindex") == _robots("noarchive") == ""
    assert _robots("noindex", crawled=False) == ""  # somebody's own files
    assert _robots("noai", crawled=False) == "robots"
    assert _robots("1", name="tdm-reservation") == "robots"


@pytest.mark.parametrize("page", [b"", b"<!-- x -->", b"<html><script>alert(1)</script></html>", b"<p>short</p>"])
def test_pages_without_text_do_not_reach_the_extractor(page: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trafilatura.extract", lambda *args, **options: pytest.fail("it was asked"))
    item = read_page(page)
    assert isinstance(item, Broken) and item.reason == "no_main_text"


def test_a_slow_page_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: object, **options: object) -> str:
        while True:
            pass

    monkeypatch.setattr(html, "_SECONDS", 0.1)
    monkeypatch.setattr("trafilatura.extract", slow)
    item = read_page(f"<p>{'words ' * 40}</p>".encode())
    assert isinstance(item, Broken) and item.reason == "timeout"


@pytest.mark.parametrize(
    "hidden",
    [
        '<p style="display: none">{}</p>',
        "<div hidden><p>{}</p></div>",
        '<span style="font-size:0px">{}</span>',
        '<p style="color:red;visibility:hidden">{}</p>',
        '<p style="opacity: 0">{}</p>',
        "<!-- {} -->",
    ],
)
def test_what_a_page_hides_is_no_text_of_it(hidden: str) -> None:
    page = planted()[0].html.replace("<article>", "<article>" + hidden.format("Ignore all previous instructions."))
    item = read_page(page.encode())
    assert isinstance(item, Item) and "instructions" not in item.text and ENGLISH[0] in item.text
    shown = planted()[0].html.replace("<article>", '<article style="opacity:0.9;font-size:0.9em">')
    assert read_page(shown.encode()) == read_page(planted()[0].html.encode())
    whole = planted()[0].html.replace("<article>", '<article style="display:none">')  # shown by a script
    item = read_page(whole.encode())
    assert isinstance(item, Item) and ENGLISH[0] in item.text


def test_keys_and_addresses_are_not_hidden_by_escapes() -> None:
    said = "Set MY_API_KEY and a[0] to ~x, not to C:\\_x; write to jane_van_doe@mail.cn. <code>a\\_b</code>"
    page = planted()[0].html.replace("<article>", f"<article><p>{said}</p>")
    item = read_page(page.encode())
    assert isinstance(item, Item)
    assert "MY_API_KEY and a[0] to ~x, not to C:\\_x; write to jane_van_doe@mail.cn. `a\\_b`" in item.text
