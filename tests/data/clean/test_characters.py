from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.clean.characters import clean


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [
        ("床前明月光，疑是地上霜。", "床前明月光，疑是地上霜。\n", {}),  # full-width punctuation stays
        ("　　缩进两格\n", "　　缩进两格\n", {}),  # the ideographic space indents a Chinese paragraph
        ("①½x²ﬁ", "①½x²ﬁ\n", {}),  # NFC, not NFKC
        ("cafe\u0301", "café\n", {"nfc": 1}),
        ("a\r\nb\rc", "a\nb\nc\n", {"newlines": 2}),
        ("a\x00\x07b", "ab\n", {"control": 2}),
        ("中\u200b文\ufeff", "中文\n", {"invisible": 2}),
        ("a\u00a0b", "a b\n", {"spaces": 1}),
        ("👩\u200d🚀", "👩\u200d🚀\n", {}),  # the joiner of an emoji is part of it
        ("if a:   \n\tb", "if a:\n\tb\n", {"trailing": 1}),
        ("a\n\n\nb", "a\n\n\nb\n", {}),  # Python's two blank lines
        ("a\n\n\n\n\n\nb", "a\n\n\nb\n", {"blank_lines": 1}),
        ("a\ud800b", "a\ufffdb\n", {"surrogates": 1}),
        ("\n \n", "", {"trailing": 1}),
    ],
)
def test_worked_examples(before: str, after: str, steps: dict[str, int]) -> None:
    assert clean(before) == (after, steps)


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\r\n \t\u200b\u3000a中e\u0301\u0300\x85"))))
def test_cleaning_twice_changes_nothing(text: str) -> None:
    once, _ = clean(text)
    assert clean(once) == (once, {})
    once.encode()  # no half characters are left


def test_long_runs_of_blanks_cost_no_square() -> None:
    assert clean(" " * 200_000 + "x" + " " * 200_000)[0] == " " * 200_000 + "x\n"
