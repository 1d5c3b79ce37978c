from __future__ import annotations

import pytest

from danlu.data.quality.educational import EXCERPT, question, read_rating


@pytest.mark.parametrize(
    ("answer", "rating"),
    [
        ("It explains recursion well.\nScore: 4", 4),
        ("讲解清楚。\n评分：3", 3),
        ("**Score:** 3.5", 3.5),
        ('{"reason": "5 facts", "score": 2}', 2),
        ("4/5", 4),
        ("我给三分", 3),
        ("评分：2（满分5分）", 2),
        ("First I thought score: 1, but no. Score: 4", 4),
        ("5", 5),
        ("评分为 0", 0),
        ("The rating is 4.", 4),
        ("", None),
        ("It has 3 parts.", None),
        ("Score: 10", None),
        ("9/10", None),
        ("评分：很高", None),
        ("Score: -", None),
    ],
)
def test_ratings_are_read_only_where_they_are_said(answer: str, rating: float | None) -> None:
    assert read_rating(answer) == rating


def test_questions_are_in_the_language_of_the_document_and_short() -> None:
    assert "评分" in question("春眠不觉晓", "zh") and "Score:" in question("def f(): {x}", "code:python")
    assert len(question("字" * 100_000, "zh")) < EXCERPT + 1_000
