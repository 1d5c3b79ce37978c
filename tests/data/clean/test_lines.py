# ruff: noqa: E501  (texts, one a line)
from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.clean.lines import join_lines

ENGLISH = (
    "The quality of the texts that a model learns from decides what it can become, and most of the work of a team goes "
    "into reading, counting and throwing away. Nobody likes this work, which is why there are so many tools that promise "
    "to do it alone and so few people who look at what the tools have dropped."
)
CHINESE = "预训练语料的质量决定了模型的上限而绝大部分时间都花在阅读统计和丢弃上没有人喜欢这样的工作所以有许多工具承诺独自完成它却很少有人去看工具究竟丢掉了什么东西这正是本章要讨论的问题"
POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n"
VERSE = (
    "Shall I compare thee to a summer's day of light\nThou art more lovely and more temperate than all\n"
    "Rough winds do shake the darling buds of early May\nAnd summer's lease hath all too short a date for us\n"
)


def test_english_paragraphs_come_back() -> None:
    wrapped = textwrap.fill(ENGLISH, 60)
    assert join_lines(wrapped + "\n\n" + wrapped + "\n") == (f"{ENGLISH}\n\n{ENGLISH}\n", 2 * wrapped.count("\n"))


def test_chinese_paragraphs_come_back_without_blanks() -> None:
    wrapped = "\n".join(CHINESE[i : i + 25] for i in range(0, len(CHINESE), 25))
    assert join_lines(wrapped) == (CHINESE, wrapped.count("\n"))


def test_hyphens() -> None:
    wrapped = (
        "This is a line that is long enough to be taken for a bro-\nken one, and it goes on in a second line with a well-\n"
        "known word, which stands as well-known elsewhere in here\nand then it ends in words that are just as wide as.\n"
    )
    joined = join_lines(wrapped)[0]
    assert "broken one" in joined and "a well-known word" in joined and "\n" not in joined[:-1]


@pytest.mark.parametrize(
    "text",
    [
        POEM,
        VERSE,
        "# Heading\n\n- one item of a list that is long enough to be wide\n- another item of a list that is long as well\n",
        "def f(x):\n    return x + 1  # a comment that makes the line rather wide\n",
        "| a | b |\n|---|---|\n| 1 | 2 |\n",
        "一、第一条规定的内容在这里写得很长很长很长很长很长\n二、第二条规定的内容在这里写得很长很长很长很长很长\n三、第三条\n四、第四条\n",
        "自上封下福巖道傍訪李鄴侯書堂山路榛合不可往矣遂賦其一\n此。\n",
        "短行\n短行\n",
        "",
    ],
)
def test_what_is_not_broken_stays(text: str) -> None:
    assert join_lines(text) == (text, 0)


@given(st.text(alphabet="ab 中，。\n-A　", max_size=300))
def test_only_line_ends_blanks_and_hyphens_go(text: str) -> None:
    joined, count = join_lines(text)
    gone = str.maketrans("", "", "\n 　-")
    assert joined.translate(gone) == text.translate(gone)
    assert (count == 0) == (joined == text)
