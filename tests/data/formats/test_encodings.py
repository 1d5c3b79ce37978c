from __future__ import annotations

import codecs

import pytest

from danlu.data.formats.encodings import UnreadableError, decode, decode_labelled, detect, known_encoding

SIMPLIFIED = "人生得意须尽欢，莫使金樽空对月。天生我材必有用，千金散尽还复来。"
TRADITIONAL = "人生得意須盡歡，莫使金樽空對月。天生我材必有用，千金散盡還復來。"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
KOREAN = "모든 국민은 인간으로서의 존엄과 가치를 가지며 행복을 추구할 권리를 가진다."


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
        (SIMPLIFIED, "utf-16-le", "utf-16-le"),  # not one zero byte in it
        (TRADITIONAL + "\n", "utf-16-be", "utf-16-be"),
        (SIMPLIFIED, "utf-32", "utf-32"),
        ("line one\n", "utf-32-le", "utf-32-le"),
        (SIMPLIFIED, "utf-32-be", "utf-32-be"),
        (TRADITIONAL, "gb18030", "gb18030"),
        (JAPANESE, "shift_jis", "shift_jis"),
        (JAPANESE, "euc_jp", "euc_jp"),
        (KOREAN, "euc_kr", "euc_kr"),
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


def test_labels_are_tried_and_not_trusted() -> None:
    data = SIMPLIFIED.encode("gb18030")
    assert decode_labelled(data, "GB2312") == (SIMPLIFIED, "gb18030")
    assert decode_labelled(SIMPLIFIED.encode(), "gb2312") == (SIMPLIFIED, "utf-8")
    assert decode_labelled(data, "utf-8") == (SIMPLIFIED, "gb18030")
    assert decode_labelled(data, "no such thing") == (SIMPLIFIED, "gb18030")
    assert decode_labelled("café".encode("latin-1"), "iso-8859-1") == ("café", "cp1252")
    assert known_encoding("rot13") == known_encoding("base64") == known_encoding("中文") == ""
