from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.clean.widths import narrow


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ＧＰＴ－４，１２：３０（北京）", "GPT-4，12:30（北京）"),
        ("ｗｗｗ．ｄａｎｌｕ．ｃｎ", "www.danlu.cn"),
        ("甲：乙？丙！（丁），“戊”；己。", None),
        ("Ａ：选项一", "A：选项一"),
        ("①㎡½ﾊﾟｿｺﾝ￥１０", "①㎡½ﾊﾟｿｺﾝ￥10"),
        ("plain", None),
    ],
)
def test_worked_examples(before: str, after: str | None) -> None:
    assert narrow(before)[0] == (after or before)
    assert (narrow(before)[1] > 0) == (after is not None)


@given(st.text(alphabet="ＡＢ１２．：，。（）中a1"))
def test_punctuation_of_chinese_never_changes(text: str) -> None:
    changed, _ = narrow(text)
    assert len(changed) == len(text)
    assert all(a == b for a, b in zip(text, changed, strict=True) if a in "，。（）中a1")
    assert narrow(changed) == (changed, 0)
