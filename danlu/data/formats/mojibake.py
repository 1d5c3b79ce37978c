"""Mojibake: text that was decoded with the wrong encoding by somebody before us, and can be turned back.

    what it was    bytes (UTF-8)       read as cp1252    read as GBK
    文字           E6 96 87 E5 AD 97   æ–‡å­—            鏂囧瓧
    café           63 61 66 C3 A9      cafÃ©             caf茅

The way back is to encode with the wrong encoding and decode as UTF-8. UTF-8 has so much structure that this fails for
nearly all clean text; the question is only how sure one wants to be. Here: clean text is never changed, even if some
mojibake stays. A run of suspect characters is turned back only as a whole, only into common letters, and only if
such runs outnumber by far the runs of the same text that cannot be turned back: a French page has "É»" somewhere, but
also "déjà", which is no UTF-8; a page *about* mojibake quotes it among clean text. Text that went wrong twice is
turned back twice.

"锟斤拷" is the bytes EF BF BD EF BF BD (two replacement characters) read as GBK: what stood there is lost. It is
counted (`lost`), not changed. The idea of deciding by what the result looks like is that of ftfy (R. Speer), which is
the oracle of the tests for Latin text; the rules here are our own and are made for Chinese.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

from danlu.core.text import HAN, KANA

_ROUNDS = 3


_HIGH: dict[str, int] = {}  # character -> the byte that was read as it, by cp1252 or Latin-1
for _byte in range(0x80, 0x100):
    _HIGH[chr(_byte)] = _byte  # as Latin-1 reads it
    _read = bytes([_byte]).decode("cp1252", "ignore")
    if _read:
        _HIGH[_read] = _byte
_HIGH_CLASS = "".join(re.escape(character) for character in _HIGH)
_LATIN_RUN = re.compile(f"[{_HIGH_CLASS}]+")
_LATIN_HINT = re.compile(f"[\u00c2-\u00f4][{''.join(re.escape(c) for c, b in _HIGH.items() if b < 0xC0)}]")
# What a repaired run may consist of: letters of Europe, Han, kana, Hangul, full-width forms, usual signs and emoji.
_EXPECTED = re.compile(
    "[\u00a0-\u024f\u0386-\u03ce\u0400-\u045f\u1e00-\u1eff\u2010-\u203a\u20ac\u2122\u2190-\u21ff\u2200-\u22ff\u2500-\u27bf"
    f"\u3000-\u303f{HAN}{KANA}\uac00-\ud7af\uff00-\uffef\U0001f300-\U0001faff\ufe0f]+"
)
_WEAK_SIGNS = 2  # two-byte runs that do not begin with Â or Ã prove little alone: so many must agree

_HAN_RUN = re.compile(
    f"[{HAN}\u2e80-\u2fff\u3000-\u303f{KANA}\uff00-\uffef\u20ac\u0080-\u00ff\u0370-\u04ff\u2010-\u2642\ue000-\uf8ff]+"
)
# Common in UTF-8 read as GBK (的是不一在人有我他这, 。，), and rare otherwise.
_HAN_HINT = re.compile("[鐨鏄涓鍦浜鏈鎴浠杩锛銆鍙鍒鏂璇鑷瀛鍥绗]")
_CLEAN_CHINESE = re.compile("[\u4e00-\u9fff]")
_LOST = re.compile("锟斤拷|锟斤|\ufffd")


def repair(text: str) -> tuple[str, str]:
    """Turn mojibake back; returns (text, what was done), the second "" for text that is left as it is.

    >>> repair("æ–‡å­—ã€‚")
    ('文字。', 'cp1252')
    >>> repair("déjà vu « CAFÉ»")
    ('déjà vu « CAFÉ»', '')
    """
    steps: list[str] = []
    for _ in range(_ROUNDS):
        for name, hint, turn in _WAYS:
            if hint.search(text) and (turned := turn(text)) is not None:
                text = turned
                steps.append(name)
                break
        else:
            break
    return text, "+".join(steps)


def lost(text: str) -> int:
    """How many marks of lost characters a text holds: U+FFFD, and the same read as GBK (锟斤拷)."""
    return len(_LOST.findall(text))


def _from_latin(text: str) -> str | None:
    """Undo "UTF-8 read as cp1252 or Latin-1" where every sign says so; None where it does not."""
    turned: list[tuple[int, int, str]] = []
    kept = strong = 0
    for run in _LATIN_RUN.finditer(text):
        data = bytes(_HIGH[character] for character in run[0])
        result = _strict_utf8(data)
        if result is None or not _plausible(result):
            kept += 1
            continue
        turned.append((run.start(), run.end(), result))
        strong += run[0][0] in "ÂÃ" or len(data) > 2 * len(result)
    if kept * 4 > len(turned) or (not strong and len(turned) < _WEAK_SIGNS):
        return None
    return _replace(text, turned) if turned else None


def _from_gbk(text: str) -> str | None:
    """Undo "UTF-8 read as GBK": Han runs that are UTF-8 of Han as bytes. Clean Chinese is that by chance only."""
    turned: list[tuple[int, int, str]] = []
    good = bad = 0
    for run in _HAN_RUN.finditer(text):
        result = None
        with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate
            result = _strict_utf8(run[0].encode("gb18030"))
        if result is None or not _EXPECTED.fullmatch(result) or not _CLEAN_CHINESE.search(result):
            bad += len(run[0])
        else:
            turned.append((run.start(), run.end(), result))
            good += len(run[0])
    return _replace(text, turned) if good >= 6 and bad * 4 <= good else None


def _plausible(result: str) -> bool:
    """Letters one expects, or mojibake of the same kind once more."""
    if _EXPECTED.fullmatch(result):
        return True
    again = _strict_utf8(bytes(_HIGH[c] for c in result)) if all(c in _HIGH for c in result) else None
    return again is not None and _plausible(again)


def _strict_utf8(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _replace(text: str, turned: list[tuple[int, int, str]]) -> str:
    parts, position = [], 0
    for start, end, result in turned:
        parts += [text[position:start], result]
        position = end
    return "".join([*parts, text[position:]])


_WAYS: tuple[tuple[str, re.Pattern[str], Callable[[str], str | None]], ...] = (
    ("cp1252", _LATIN_HINT, _from_latin),
    ("gbk", _HAN_HINT, _from_gbk),
)
