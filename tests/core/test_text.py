from hypothesis import given
from hypothesis import strategies as st

from danlu.core.text import count_han, is_han, shingles, units


def test_units_treat_chinese_and_english_as_equals() -> None:
    assert units("The furnace，丹炉 v2!") == ["The", "furnace", "丹", "炉", "v2"]
    assert units("ひらがな한국") == ["ひ", "ら", "が", "な", "한", "국"]
    assert units("snake_case x1") == ["snake_case", "x1"]
    assert units("，。 !?") == []


def test_mixed_run_without_spaces_is_cut_between_scripts() -> None:
    assert units("用GPU训练") == ["用", "GPU", "训", "练"]


def test_shingles_of_short_and_empty_text() -> None:
    assert shingles("白日依山尽", 2) == ["白 日", "日 依", "依 山", "山 尽"]
    assert shingles("One TWO", 5) == ["one two"]
    assert shingles("。。。", 5) == []


@given(st.text(), st.integers(1, 6))
def test_there_are_as_many_shingles_as_windows(text: str, n: int) -> None:
    count = len(units(text.lower()))
    assert len(shingles(text, n)) == (max(1, count - n + 1) if count else 0)


def test_han() -> None:
    assert is_han("炉") and is_han("𠀀") and not is_han("あ") and not is_han("a")
    assert count_han("丹炉 furnace") == 2
