# ruff: noqa: E501  (texts, one a line)
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.clean.document import CleanConfig, Cleaned, clean_document, diff_sample

EVERYTHING = CleanConfig(wiki=True, markdown=True, furniture=True, tables=True, join_lines=True)
CLEAN = (
    "春晓\n春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。\n",
    "孟子见梁惠王。王曰：“叟！不远千里而来，亦将有以利吾国乎？”\n　　孟子对曰：“王！何必曰利？亦有仁义而已矣。”\n",
    "The first rule of reading is that a page has something to say. Most pages do; some (see below) don't.\n\n- one\n- two\n",
    "设 a < b，则 f(a) < f(b)；若 x > 0 且 y & z 为真，见 [1]、(2) 与表 3。\n",
)


@pytest.mark.parametrize("text", CLEAN)
def test_a_clean_text_survives_every_step(text: str) -> None:
    assert clean_document(text) == Cleaned(text, {}, [])
    assert clean_document(text, EVERYTHING) == Cleaned(text, {}, [])


def test_a_page_with_everything() -> None:
    page = "<p>５月１日&nbsp;出版</p>\r\n[b]正文[/b]在此。\n上一篇：无题\n\n\n\n\n\n© 2024 某某公司"
    assert clean_document(page) == Cleaned(
        "5月1日 出版\n正文在此。\n",
        {
            "newlines": 1,
            "html": 2,
            "entities": 1,
            "bbcode": 2,
            "widths": 2,
            "boilerplate": 2,
            "blank_lines": 1,
            "spaces": 1,
        },
        [("navigation", "上一篇：无题"), ("copyright", "© 2024 某某公司")],
    )


def test_code_is_only_cleaned_of_characters() -> None:
    code = "# Copyright (c) 2001 by somebody\ns = '<b>x</b> &amp; ＡＢＣ'\u200b\n"
    assert clean_document(code, EVERYTHING, "code:python") == Cleaned(code.replace("\u200b", ""), {"invisible": 1}, [])


def test_each_step_can_be_switched_off() -> None:
    off = CleanConfig(**{name: False for name, field in CleanConfig.model_fields.items() if field.annotation is bool})
    text = "<p>Ａ&amp;\u200b[b]x[/b]</p>\r\n上一篇：无题"
    assert clean_document(text, off) == Cleaned(text)
    with pytest.raises(ValueError):
        CleanConfig(no_such_step=True)  # type: ignore[call-arg]


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from(
            [
                "<p>",
                "</p>",
                "&amp;",
                "上一篇：x",
                "Ａ",
                "[b]",
                "[/b]",
                "\n",
                " ",
                "正文",
                "\u200b",
                "- 1 -",
                "|",
                "lt;",
                "&",
            ]
        ),
        max_size=30,
    )
)
def test_nothing_changes_without_being_counted(parts: list[str]) -> None:
    text = "".join(parts).strip("\n") + "\n"
    cleaned = clean_document(text, EVERYTHING)
    if cleaned.text != text and text.strip("\n"):
        assert cleaned.changes
    assert sum(cleaned.changes.get(name, 0) for name in ("boilerplate", "furniture")) == len(cleaned.removed_lines)


def test_diff_sample() -> None:
    before = "\n".join(f"line {i}" for i in range(100)) + "\nend\u200b\n" + "x" * 500
    sample = diff_sample(before, before.replace("line 50\n", "").replace("\u200b", ""), max_lines=20)
    assert "-line 50" in sample and "-end\\u200b" in sample and "+end" in sample
    assert diff_sample("a", "a") == [] and len(diff_sample("a\n" * 99, "b\n" * 99, max_lines=5)) == 6
    assert len(diff_sample("x" * 500, "y")[-2]) == 161


def test_convert() -> None:
    pytest.importorskip("opencc")
    assert clean_document("漢語", CleanConfig(convert="simplified")) == Cleaned("汉语\n", {"convert": 2}, [])
