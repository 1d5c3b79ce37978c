"""Manual pages, by hand and from whatever this machine has."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from danlu.data.formats.item import Broken, Item
from danlu.data.formats.manpage import arguments, fill, read_manpage, unescape

PAGE = r"""
.\" a comment
.TH LS 1 2022年9月 "GNU coreutils 9.1" 使用者命令
.SH 描述
.ds x y
列出文件的信息。
默认按照字母顺序排序。
See \fBdir\fP(1) and
.BR vdir (1),
\(lqquoted\(rq.
.PP
第二段\" nothing
.TP
\fB\-a\fP, \fB\-\-all\fP
不要忽略以点号起始的条目
.IP \(bu 2
一条
.if t for paper only
.if n for the screen
.ie t \{\
.B paper
.\}
.nf
$ ls \-l
  total 0
.fi
.SS 例子
.de zz
inside a macro
..
末尾
"""


def _read(text: str) -> Item:
    (item,) = read_manpage(io.BytesIO(text.encode()))
    assert isinstance(item, Item)
    return item


def test_a_page_becomes_text_with_headings() -> None:
    item = _read(PAGE)
    assert item.meta == {"title": "ls(1)"}
    assert item.text.split("\n") == [
        "# ls(1)", "", "## 描述", "",
        "列出文件的信息。默认按照字母顺序排序。 See dir(1) and vdir(1), “quoted”.", "",
        "第二段", "",
        "-a, --all", "不要忽略以点号起始的条目", "",
        "•", "一条 for the screen", "$ ls -l", "  total 0", "", "### 例子", "", "末尾",
    ]  # fmt: skip


def test_mdoc() -> None:
    text = _read(
        ".Dd May 1\n.Dt CAT 1\n.Sh NAME\n.Nm cat\n.Nd join files\n.Sh OPTIONS\n.Bl -tag\n.It Fl b Ar n\nNumber lines.\n"
        ".El\nSee\n.Xr head 1 .\n.Op Fl v\n"
    ).text
    assert text.split("\n") == [
        "# cat(1)", "", "## NAME", "", "cat - join files", "", "## OPTIONS", "", "-b n", "Number lines.", "",
        "See head(1) [-v]",
    ]  # fmt: skip


def test_a_redirect_and_a_log_are_no_pages() -> None:
    (redirect,) = read_manpage(io.BytesIO(b".so man1/ls.1\n"))
    assert isinstance(redirect, Broken) and redirect.reason == "redirect" and "man1/ls.1" in redirect.detail
    (log,) = read_manpage(io.BytesIO(b"started\nstopped\n"))
    assert isinstance(log, Broken) and log.reason == "unknown_format"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"\fB\-a\fP \(co 2024\" comment", "-a © 2024"),
        (r"\f[B]x\f[] \*(lqy\*(rq \s-1NASA\s0", "x “y” NASA"),
        (r"\[u4E2D]\e\&.\~\h'2'z", "中\\. z"),
        ("plain", "plain"),
        ("end \\", "end "),
    ],
)
def test_escapes(written: str, read: str) -> None:
    assert unescape(written) == read


def test_arguments() -> None:
    assert arguments(r'one "two words" th\ ree "four ""4""" \" comment') == ["one", "two words", r"th\ ree", 'four "4"']


def test_filling() -> None:
    assert fill(["中文，", "中文", "and", "English"]) == "中文，中文 and English"


def test_no_input_is_too_broken() -> None:
    random.seed(3)
    letters = list(PAGE)
    for _ in range(200):
        broken = letters[:]
        for _ in range(20):
            broken[random.randrange(len(broken))] = random.choice("\\.\"'{}[](\nTS")
        assert len(list(read_manpage(io.BytesIO(b".TH A 1\n" + "".join(broken).encode())))) == 1


def test_the_pages_of_this_machine() -> None:
    pages = sorted(Path("/usr/share/man").rglob("*.1.gz"))[:40]
    if not pages:
        pytest.skip("no manual pages here")
    from danlu.data.formats.extract import extract

    for page in pages:
        for item in extract(page):
            if isinstance(item, Item):
                assert "\\f" not in item.text and len(item.text) > 100
