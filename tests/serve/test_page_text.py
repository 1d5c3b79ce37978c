from __future__ import annotations

import string

import pytest

from danlu.serve.page_text import LANGUAGES, TEXTS, preferred_language


def test_every_language_says_everything_with_the_same_values() -> None:
    def values(text: str) -> set[str | None]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    assert set(TEXTS) == set(LANGUAGES)
    for language, texts in TEXTS.items():
        assert set(texts) == set(TEXTS["en"]), language
        for key, text in texts.items():
            assert text
            assert values(text) == values(TEXTS["en"][key]), key


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.8", "en"),
        ("fr, zh-TW;q=0.5", "zh"),
        ("zh;q=0, de", "en"),
        ("zh;q=nonsense, en;q=0.1", "en"),
    ],
)
def test_preferred_language(header: str, language: str) -> None:
    assert preferred_language(header) == language
