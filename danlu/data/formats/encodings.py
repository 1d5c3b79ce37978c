"""Bytes to text: which encoding is this file in.

Nearly everything is UTF-8. What is not, and matters for Chinese, is GB18030 (mainland), Big5 (Taiwan, Hong Kong),
UTF-16 (Windows) and, in mixed collections, the encodings of Japanese and Korean. GB18030 decodes almost any pair of
high bytes to *some* character, so "it decodes" proves nothing; the test is whether the characters are common ones.
The national standards put their common characters in one block of the code table (GB2312 level 1: lead bytes B0-D7,
3,755 characters; Big5 level 1: A4-C6, 5,401; JIS level 1: 2,965 and the kana), so

    score = share of the decoded characters beyond ASCII and punctuation that come from that block

is near 1 for the right encoding and well below for the wrong one. UTF-16 and UTF-32 without a byte order mark are
told by their zero bytes, and UTF-16 of Chinese alone, which has none, by the same score. What scores badly everywhere
is handed to charset-normalizer where that is installed, and is otherwise an error: text is never guessed into
mojibake.
"""

from __future__ import annotations

import codecs
import functools
import importlib.util
import re

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the UTF-16 one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# encoding -> (first, last) two-byte codes of its blocks of common characters
_COMMON_BLOCKS: dict[str, tuple[tuple[int, int], ...]] = {
    "gb18030": ((0xB0A1, 0xD7F9),),
    "big5": ((0xA440, 0xC67E),),
    "shift_jis": ((0x889F, 0x9872), (0x829F, 0x82F1), (0x8340, 0x8396)),
    "euc_jp": ((0xB0A1, 0xCFD3), (0xA4A1, 0xA4F3), (0xA5A1, 0xA5F6)),
    "euc_kr": ((0xB0A1, 0xC8FE),),  # inside the block of GB2312: see `detect`
}
_PUNCTUATION = re.compile("[\u00b7\u2010-\u2027\u3000-\u303f\uff00-\uff60\uffe0-\uffef]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")
_MIN_SCORE = 0.75
_SCORED_CHARACTERS = 2_000
_MIN_KOREAN = 16  # characters


class UnreadableError(ValueError):
    """No encoding gives sensible text. The message says what was tried."""


def decode(data: bytes) -> tuple[str, str]:
    """Decode a whole file; returns (text, name of the encoding).

    Raises UnreadableError for binary data and for text in an encoding nobody here knows.
    """
    encoding = detect(data)
    try:
        return data.decode(encoding), encoding
    except UnicodeDecodeError as error:
        behind_mark = len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0  # that codec counts from there
        start = behind_mark + error.start
        raise UnreadableError(f"not valid {encoding} at byte {start}") from None


def decode_labelled(data: bytes, label: str) -> tuple[str, str]:
    """Decode bytes that say what they are (an HTTP header, a MIME part); returns (text, name of the encoding).

    Labels of the wild are often wrong, so bytes that are valid UTF-8 beyond ASCII are UTF-8, whatever they say; then
    the label is tried, then `detect`, and at last the label again with replacement characters, where these are few.
    Raises UnreadableError when nothing fits.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data.decode(encoding, "replace"), encoding
    encoding = known_encoding(label)
    if encoding and not encoding.startswith(("utf-16", "utf-32")):
        try:
            return data.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            pass
    if encoding:
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            pass
    try:
        return decode(data)
    except UnreadableError:
        text = data.decode(encoding or "utf-8", "replace")
        if text.count("\ufffd") > 0.01 * len(text):
            raise
        return text, encoding or "utf-8"


def known_encoding(label: str) -> str:
    """Python's name for a label of the web, or "". Subsets are widened as browsers do (WHATWG Encoding, section 4.2).

    >>> known_encoding("GB2312"), known_encoding("iso-8859-1"), known_encoding("nonsense")
    ('gb18030', 'cp1252', '')
    """
    label = label.strip().strip("\"'").lower()
    try:
        name = codecs.lookup(label).name if label.isascii() else ""
        text_encoding = bool(name) and isinstance("".encode(name), bytes)
    except (LookupError, ValueError, UnicodeError):
        return ""
    wider = {
        "gb2312": "gb18030",
        "gbk": "gb18030",
        "big5": "big5hkscs",
        "shift_jis": "cp932",
        "iso8859-1": "cp1252",
        "ascii": "cp1252",
        "euc_kr": "cp949",
        "iso8859-9": "cp1254",
        "tis-620": "cp874",
    }
    return wider.get(name, name) if text_encoding else ""


def detect(data: bytes) -> str:
    """The encoding of `data`, a whole file or its first part (a character cut at the end does no harm)."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return encoding
    if b"\0" in data:
        return _detect_wide(data)
    if _decode_start(data, "utf-8") is not None:
        return "utf-8"
    head = data[: 16 * _SCORED_CHARACTERS]
    # Equal scores: the first wins. All of Korean lies where GB2312 has half of its common characters (pinyin a to q),
    # so a text long enough that keeps to that half is Korean.
    candidates = [name for name in _COMMON_BLOCKS if name != "euc_kr"] + ["utf-16-le", "utf-16-be"]
    if len(head) - len(head.translate(None, bytes(range(128, 256)))) >= 2 * _MIN_KOREAN:
        candidates.insert(0, "euc_kr")
    scores = {encoding: _score(head, encoding) for encoding in candidates}
    best = max(scores, key=lambda encoding: scores[encoding])
    if scores[best] >= _MIN_SCORE:
        return best
    if importlib.util.find_spec("charset_normalizer"):
        from charset_normalizer import from_bytes

        match = from_bytes(data[:100_000]).best()
        if match is not None:
            return str(match.encoding)
    raise UnreadableError("neither UTF-8 nor UTF-16, GB18030, Big5 or Shift-JIS")


def _decode_start(data: bytes, encoding: str) -> str | None:
    """Decode strictly, but forgive a character cut off at the end; None when it is not this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return None


def _detect_wide(data: bytes) -> str:
    """UTF-16 and UTF-32 without a mark: ASCII in them leaves zero bytes in some places of each unit only."""
    head = data[: len(data) // 4 * 4]
    zeros = [head[i::4].count(0) for i in range(4)]
    quarter = len(head) // 4
    for encoding, empty in (("utf-32-le", (2, 3)), ("utf-32-be", (0, 1))):
        if quarter and all(zeros[i] >= 0.99 * quarter for i in empty) and _decode_start(data, encoding):
            return encoding
    even, odd = data[0::2].count(0), data[1::2].count(0)
    for encoding, many, few in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        text = _decode_start(data, encoding) if many > 0 and few <= 0.01 * many else None
        if text and (many >= 0.05 * len(data) / 2 or _score_text(text, "utf-16") >= _MIN_SCORE):
            return encoding
    raise UnreadableError("binary data (zero bytes)")


def _score(data: bytes, encoding: str) -> float:
    text = _decode_start(data, encoding)
    if text is None:
        return 0.0
    return _score_text(text, "utf-16" if encoding.startswith("utf-16") else encoding)


def _score_text(text: str, encoding: str) -> float:
    """Share of common characters among the first that are neither ASCII nor punctuation; controls count against."""
    common = _common(encoding)
    total = found = 0
    for character in text:
        if (character > "\x7f" and not _PUNCTUATION.match(character)) or _CONTROL.match(character):
            total += 1
            found += character in common
            if total == _SCORED_CHARACTERS:
                break
    return found / total if total else 0.0


@functools.cache
def _common(encoding: str) -> frozenset[str]:
    """The common characters of an encoding; for UTF-16 those of all of them."""
    if encoding == "utf-16":
        return frozenset().union(*(_common(name) for name in _COMMON_BLOCKS))
    found = set()
    for first, last in _COMMON_BLOCKS[encoding]:
        for code in range(first, last + 1):
            character = code.to_bytes(2, "big").decode(encoding, "ignore")
            if len(character) == 1 and character > "\x7f":
                found.add(character)
    return frozenset(found)
