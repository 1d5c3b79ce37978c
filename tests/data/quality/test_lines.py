"""The line filter of C4 keeps sentences and says of every other line why it went."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from danlu.data.quality.lines import REASONS, keep_lines

PAGE = """Home | About | Contact

This is the first sentence of the page.
No way.
春眠不覺曉，處處聞啼鳥。
首页。
Please enable JavaScript to read on.

This site uses cookies to know you better.
本网站的隐私政策如下所示。
He said: "Let us go."
To be continued...
她没有回答，只是摇了摇头……
"""


def test_each_reason() -> None:
    kept, removed = keep_lines(PAGE + "x" * 1001 + ".\n")
    assert kept == (
        "This is the first sentence of the page.\n春眠不覺曉，處處聞啼鳥。\n\n"
        'He said: "Let us go."\n她没有回答，只是摇了摇头……\n'
    )
    assert [reason for reason, _ in removed] == [
        "no_end", "short", "short", "script", "policy", "policy", "no_end", "long_word",
    ]  # fmt: skip
    assert removed[0][1] == "Home | About | Contact"


def test_reasons_can_be_chosen() -> None:
    kept, removed = keep_lines(PAGE, reasons=("script",))
    assert [reason for reason, _ in removed] == ["script"] and "Home" in kept


@given(st.text(alphabet="a 天。.\n", max_size=60))
def test_nothing_is_lost_and_a_second_time_changes_nothing(text: str) -> None:
    kept, removed = keep_lines(text)
    filled = [line for line in text.split("\n") if line.strip()]
    assert sorted(filled) == sorted([line for line in kept.split("\n") if line] + [line for _, line in removed])
    assert keep_lines(kept) == (kept, []) and {reason for reason, _ in removed} <= set(REASONS)
