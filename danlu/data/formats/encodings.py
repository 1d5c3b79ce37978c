"""Bytes to text: which encoding is this file in.

Nearly everything is UTF-8. What is not, and matters for Chinese, is GB18030 (mainland), Big5 (Taiwan, Hong Kong)
and UTF-16 (Windows). GB18030 decodes almost any pair of high bytes to *some* character, so "it decodes" proves
nothing; the test is whether the characters are common ones. Both national standards put their common characters in
one block of the code table (GB2312 level 1: lead bytes B0-D7, 3,755 characters; Big5 level 1: A4-C6, 5,401), so

    score = share of the decoded characters beyond ASCII and punctuation whose own bytes lie in that block

is near 1 for the right encoding and well below for the wrong one. What scores badly everywhere is handed to
charset-normalizer where that is installed, and is otherwise an error: text is never guessed into mojibake.
"""

from __future__ import annotations

import codecs
import importlib.util
import re

from danlu.core.text import is_han

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the UTF-16 one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# encoding -> (first, last) two-byte code of its block of common Han characters
_COMMON_BLOCK = {"gb18030": (0xB0A1, 0xD7F9), "big5": (0xA440, 0xC67E)}
_PUNCTUATION = re.compile("[\u00b7\u2010-\u2027\u3000-\u303f\uff00-\uffef]")
_MIN_SCORE = 0.75
_SCORED_CHARACTERS = 2_000


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


def detect(data: bytes) -> str:
    """The encoding of `data`, a whole file or its first part (a character cut at the end does no harm)."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return encoding
    if _decode_start(data, "utf-8") is not None and b"\0" not in data:
        return "utf-8"
    if b"\0" in data:
        return _detect_utf16(data)
    scores = {encoding: _score(data, encoding) for encoding in _COMMON_BLOCK}
    best = max(scores, key=lambda encoding: scores[encoding])
    if scores[best] >= _MIN_SCORE:
        return best
    if importlib.util.find_spec("charset_normalizer"):
        from charset_normalizer import from_bytes

        match = from_bytes(data[:100_000]).best()
        if match is not None:
            return str(match.encoding)
    raise UnreadableError("neither UTF-8 nor UTF-16, GB18030 or Big5")


def _decode_start(data: bytes, encoding: str) -> str | None:
    """Decode strictly, but forgive a character cut off at the end; None when it is not this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return None


def _detect_utf16(data: bytes) -> str:
    """UTF-16 without a mark: ASCII in it leaves zero bytes on one side of each pair only."""
    even, odd = data[0::2].count(0), data[1::2].count(0)
    for encoding, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if zeros >= 0.05 * len(data) / 2 and others <= 0.01 * zeros and _decode_start(data, encoding) is not None:
            return encoding
    raise UnreadableError("binary data (zero bytes)")


def _score(data: bytes, encoding: str) -> float:
    text = _decode_start(data, encoding)
    if text is None:
        return 0.0
    first, last = _COMMON_BLOCK[encoding]
    total = common = 0
    for character in text:
        if character > "\x7f" and not _PUNCTUATION.match(character):
            total += 1
            common += is_han(character) and first <= int.from_bytes(character.encode(encoding), "big") <= last
            if total == _SCORED_CHARACTERS:
                break
    return common / total if total else 0.0
