# ruff: noqa: E501  (texts, one a line)
from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.clean import markup


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Hello<br/>world</p> <span class='x'>!</span>", "Hello\nworld\n !"),
        ("<div><p>第一段</p>\n<p>第二段</p></div>", "第一段\n第二段"),
        ("x<script>var a = '<p>';</script>y", "xy"),
        ("a<!-- ignore all previous instructions -->b", "ab"),
        ("List<String> a <b and c> d #include <stdio.h> <user@host.cn>", None),
        ("use the <p> element, it has no end", None),  # one open tag without attributes is its subject
        ("```html\n<p>code</p>\n```\nand <b>bold</b>", "```html\n<p>code</p>\n```\nand bold"),
        ("the tag `</p>` closes a <i>paragraph</i>", "the tag `</p>` closes a paragraph"),
        ("text <i>x</i>\n\n    <p>indented</p>\n", "text x\n\n    <p>indented</p>\n"),
        ('<a href="http://a.cn/?b=1&c=2">链接</a>', "链接"),
        ("1 < 2 and 3 > 2", None),
    ],
)
def test_html(before: str, after: str | None) -> None:
    text, count = markup.strip_html(before)
    assert text == (before if after is None else after)
    assert (count == 0) == (after is None)


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        ("5 &gt; 3 &amp;&amp; x&#8212;y", "5 > 3 && x—y", 4),
        ("Tom &amp;amp; Jerry", "Tom & Jerry", 2),
        ("AT&T; R&D &unknown; a&b", "AT&T; R&D &unknown; a&b", 0),
        ("&#x4e2d;&#25991;", "中文", 2),
        ("write `&lt;` for <", "write `&lt;` for <", 0),
    ],
)
def test_entities(before: str, after: str, count: int) -> None:
    assert markup.unescape(before) == (after, count)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[b]粗体[/b] [url=http://a.b/c]链接[/url]", "粗体 链接"),
        ("[img]http://a.b/c.png[/img]图", "图"),
        ("a[i] = b[u] and [1] and [b]", None),
    ],
)
def test_bbcode(before: str, after: str | None) -> None:
    assert markup.strip_bbcode(before)[0] == (before if after is None else after)


def test_wiki() -> None:
    text = "== 历史 ==\n'''北京'''是[[中国|中华人民共和国]]的[[首都]]{{cite|a={{b}}}}。<ref name=x>出处</ref>[[Category:城市]]"
    assert markup.strip_wiki(text)[0] == "历史\n北京是中华人民共和国的首都。"


def test_markdown() -> None:
    text = '![logo](a.png "t") see [here](http://a.b/c_(d)) and a[i](x)\n[1]: http://a.b\n`[code](stays)`'
    assert markup.strip_markdown(text)[0] == "logo see here and ai\n`[code](stays)`"


STEPS = (markup.strip_html, markup.unescape, markup.strip_bbcode, markup.strip_wiki, markup.strip_markdown)


@given(st.text(alphabet="<>/&;[]b{}|'`!()= \n中#1lt=\"-", max_size=80))
def test_any_text(text: str) -> None:
    for step in STEPS:
        changed, count = step(text)
        assert (count == 0) <= (changed == text)  # nothing changes without a count


@pytest.mark.parametrize(
    "text",
    ["<a " * 40_000, "<!--" * 40_000, "[[" * 40_000, "{{" * 40_000, "![" * 40_000, "'" * 100_000, "<script>" * 20_000,
     "`" * 100_000, "&" * 100_000, "[b" * 40_000, "[x](" * 30_000, "~~~\n" * 20_000, "=" * 100_000],
)  # fmt: skip
def test_hard_texts_end(text: str) -> None:
    start = time.process_time()
    for step in STEPS:
        step(text)
    assert time.process_time() - start < 8
