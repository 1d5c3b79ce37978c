from __future__ import annotations

import codecs

import pytest

from danlu.data.formats.encodings import UnreadableError, decode, detect

SIMPLIFIED = "人生得意须尽欢，莫使金樽空对月。天生我材必有用，千金散尽还复来。"
TRADITIONAL = "人生得意須盡歡，莫使金樽空對月。天生我材必有用，千金散盡還復來。"


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("plain ASCII", "ascii", "utf-8"),
        (SIMPLIFIED, "utf-8", "utf-8"),
        (SIMPLIFIED, "utf-8-sig", "utf-8-sig"),
        (SIMPLIFIED, "gb18030", "gb18030"),
        (SIMPLIFIED, "gbk", "gb18030"),
        (TRADITIONAL, "big5", "big5"),
        (TRADITIONAL, "utf-16", "utf-16"),
        ("line one\nline two\n", "utf-16-le", "utf-16-le"),
        ("line one\nline two\n", "utf-16-be", "utf-16-be"),
    ],
)
def test_encodings_are_told_apart(text: str, encoding: str, said: str) -> None:
    assert decode(text.encode(encoding)) == (text, said)


def test_a_character_cut_at_the_end_of_the_sample_does_no_harm() -> None:
    assert detect(SIMPLIFIED.encode()[:-1]) == "utf-8"
    assert detect(codecs.BOM_UTF16_LE + "中".encode("utf-16-le")[:1]) == "utf-16"


def test_binary_data_is_refused() -> None:
    with pytest.raises(UnreadableError, match="binary"):
        decode(bytes(range(256)) * 8)


def test_an_invalid_byte_is_named_by_its_place() -> None:
    with pytest.raises(UnreadableError, match="byte 7"):
        decode(codecs.BOM_UTF8 + b"good\xff")
