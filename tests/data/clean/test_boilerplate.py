# ruff: noqa: E501  (texts, one a line)
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.clean.boilerplate import strip_boilerplate, strip_furniture

LINES = {
    "cookies": ["This website uses cookies to give you the best experience.", "We use cookies. Accept or leave.", "本网站使用 Cookie 以改善体验。", "Accept all cookies"],
    "share": ["Share this article", "Share on Facebook", "分享到：微信 微博 QQ空间", "扫一扫关注公众号", "Follow us on X"],
    "navigation": ["Skip to main content", "« Previous post: Something", "Read more »", "上一篇：春日的诗", "下一篇", "返回顶部", "首页 > 新闻 > 国内", "阅读全文", "相关阅读"],
    "copyright": ["© 2024 Some Company. All rights reserved.", "Copyright (c) 2001 by somebody", "版权所有 © 某某公司", "京ICP备12345678号-1", "未经授权，禁止转载", "Powered by SomePress"],
    "credits": ["责任编辑：某某", "（编辑：某某）", "来源：某某日报"],
    "account": ["Log in to comment", "Sign up for our newsletter", "登录后才能评论", "登录 | 注册"],
    "scripts": ["Please enable JavaScript to view this page."],
}  # fmt: skip

PROSE = """曲奇（cookie）是一种饼干，本文介绍怎样烤制它。
我们分享到的经验是：耐心。
The cookie was invented in Persia, and this text uses cookies as an example of a sentence about food that goes on.
He said that all rights reserved to the people cannot be taken away by any government of the day.
The copyright of a work belongs to its author; in China this has been law since 1991, and many people forget it.
编辑部的故事讲的是一群编辑。来源很多，说法不一：有人说是真的。
下一篇文章他写了三年。上一章里的人物又回来了。
She subscribed to the view that one should read more and speak less.
注册资本不少于人民币三万元。登录这座岛屿的人都失踪了。
"""


@pytest.mark.parametrize("reason", LINES)
def test_every_kind_goes_and_is_reported(reason: str) -> None:
    for line in LINES[reason]:
        for text in (f"正文第一句。\n{line}\nThe text goes on.\n", f"  {line}\n正文", f"正文\n{line}"):
            rest, removed = strip_boilerplate(text)
            assert removed == [(reason, line)], line
            assert rest == "".join(part for part in text.splitlines(keepends=True) if line not in part)


def test_sentences_about_the_same_things_stay() -> None:
    assert strip_boilerplate(PROSE) == (PROSE, [])


@given(st.lists(st.sampled_from(["上一篇：无题", "正文。", "", "Share on X", "İ", "prose about cookies"]), max_size=8))
def test_lines_are_kept_in_order(lines: list[str]) -> None:
    text = "\n".join(lines)
    rest, removed = strip_boilerplate(text)
    gone = [line for _, line in removed]
    assert gone == [line for line in lines if line in ("上一篇：无题", "Share on X")]
    assert [line for line in rest.split("\n") if line] == [line for line in lines if line and line not in gone]


def pages(n: int, number: str, head: str) -> str:
    return "".join(
        f"{head}\n正文的内容写在这里，是第{'一二三四五'[i - 1]}处\n"
        + "".join(f"又一行正文{'甲乙丙丁戊己庚辛'[k]}{'一二三四五'[i - 1]}。\n" for k in range(8))
        + number.format(i)
        + "\n"
        for i in range(1, n + 1)
    )


@pytest.mark.parametrize("number", ["- {} -", "第 {} 页 共 9 页", "Page {} of 9", "{}"])
def test_page_numbers_and_running_heads(number: str) -> None:
    text = pages(5, number, "某某大学博士论文")
    rest, removed = strip_furniture(text)
    assert [reason for reason, _ in removed].count("page") == 5
    assert [line for reason, line in removed if reason == "head"].count("某某大学博士论文") >= 4
    assert rest.count("又一行正文") == 40 and rest.count("正文的内容") == 5


def test_verse_numbers_and_tables_stay() -> None:
    for text in ("1\n床前明月光\n2\n疑是地上霜\n3\n举头望明月\n", "12\n7\n95\n3\n41\n", "第一章\n正文\n", "一页\n"):
        assert strip_furniture(text) == (text, [])
