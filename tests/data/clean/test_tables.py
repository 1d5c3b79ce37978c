from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.clean.tables import tidy_tables


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("+----+----+\n| a  | b  |\n+----+----+\n", "| a | b |\n"),
        ("| 名称 | 大小 |\n|------|------|\n| 甲   | 1    |\n", "| 名称 | 大小 |\n|------|------|\n| 甲 | 1 |\n"),
        ("|      |      |\ntext\n", "text\n"),
        ("┌──────┐\n│ 名称 │\n└──────┘\n", "│ 名称 │\n"),
        ("Heading\n-------\n\ntext\n", None),
        ("a | b || c\nx + y - z\n", None),
        ("诗曰：\n床前明月光，疑是地上霜。\n", None),
    ],
)
def test_worked_examples(before: str, after: str | None) -> None:
    assert tidy_tables(before)[0] == (before if after is None else after)
    assert (tidy_tables(before)[1] == 0) == (after is None)


@given(st.text(alphabet="|-+ a中\n─│:", max_size=120))
def test_nothing_with_a_letter_goes(text: str) -> None:
    tidy, count = tidy_tables(text)
    assert [c for c in tidy if c in "a中"] == [c for c in text if c in "a中"]
    assert (count == 0) == (tidy == text)
