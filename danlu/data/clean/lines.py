"""Lines that were broken to fit a page, joined to the paragraphs they were.

    The quick brown fox jumps over the la-            The quick brown fox jumps over the lazy dog and runs on.
    zy dog and runs on.
    预训练语料的质量决定了                             预训练语料的质量决定了模型的上限。
    模型的上限。

A block of lines (what blank lines part) is joined only if it looks broken by a machine:

- its lines, the last one aside, are nearly equally wide: none below 70 % of the widest, which has 40 columns or more,
- a block of two or three lines is as wide as others of the text: a title is not the first line of its verse,
- most of them end within a sentence: in a letter, a comma of English, or a Han character,
- Latin lines mostly go on in small letters: verse begins each line with a capital,
- no line begins like an item of a list, a heading, a quotation, a row of a table, or with a new indent.

Chinese verse ends its lines with punctuation and code has ragged ones, so both stay. Between Han characters nothing is
put, else a space; a hyphen at a line end goes, unless the text has the hyphenated word elsewhere.
"""

from __future__ import annotations

import re
import unicodedata

_WIDE = re.compile("[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\U00020000-\U0003fffd]")  # noqa: E501
_LEAST_WIDTH = 40  # columns; a Han character has two
_NARROWEST = 0.7
_ITEM = re.compile(r"\s|[-*+•·▪◦>|#=~]|\d{1,3}[.)、．]|[(（][\w一二三四五六七八九十]{1,3}[)）]|[一二三四五六七八九十]{1,3}、|第[一二三四五六七八九十\d]{1,4}[章节条回]|[A-Za-z][.)] |`{3}|:\w+:|@\w")  # noqa: E501
_MID_SENTENCE = re.compile(r"[\w,，、\-(（“‘\u2010]$")
_HYPHENATED = re.compile(r"([^\W\d_]+)[-\u2010\u00ad]$")
_WORD_START = re.compile(r"[^\W\d_]+")
_CJK_END = re.compile("[\u3000-\u303f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]$")


def join_lines(text: str) -> tuple[str, int]:
    """Returns the text and how many line ends were taken away."""
    if "\n" not in text:
        return text, 0
    blocks = re.split(r"(\n(?:[ \t\u3000]*\n)+)", text)
    usual = _usual_width(text)
    joined = 0
    for i in range(0, len(blocks), 2):
        lines = blocks[i].strip("\n").split("\n")
        if len(lines) > 1 and _looks_broken(lines, usual):
            head, tail = blocks[i][: len(blocks[i]) - len(blocks[i].lstrip("\n"))], "\n" * blocks[i].endswith("\n")
            blocks[i] = head + _join(lines, text) + tail
            joined += len(lines) - 1
    return "".join(blocks), joined


def _width(line: str) -> int:
    return len(line) if line.isascii() else len(line) + len(_WIDE.findall(line))


def _usual_width(text: str) -> float:
    """The width that at least four wide lines of the text come near to and none of the others passes by far; else none."""
    wide = sorted((w for w in map(_width, text.split("\n")) if w >= _LEAST_WIDTH), reverse=True)
    if len(wide) < 4:
        return float("inf")
    width = wide[len(wide) // 20]  # a few lines run over
    return width if sum(w >= 0.85 * width for w in wide) >= 4 else float("inf")


def _looks_broken(lines: list[str], usual: float) -> bool:
    widths = [_width(line.strip()) for line in lines]
    widest = max(widths)
    if widest < _LEAST_WIDTH or min(widths[:-1]) < _NARROWEST * widest:
        return False
    if len(lines) < 4 and widest < 0.8 * usual:
        return False
    if any(_ITEM.match(line) for line in lines[1:]) or re.match(r"[-*+•>|#=~`]|\s{4}", lines[0]):
        return False
    within = sum(_MID_SENTENCE.search(line.rstrip()) is not None for line in lines[:-1])
    if within < 0.5 * (len(lines) - 1):
        return False
    starts = [line[0] for line in lines[1:] if unicodedata.category(line[0]) in ("Lu", "Ll")]
    return not starts or 2 * sum(start.islower() for start in starts) >= len(starts)


def _join(lines: list[str], text: str) -> str:
    joined = lines[0].rstrip()
    for line in lines[1:]:
        line = line.strip()
        broken = _HYPHENATED.search(joined[-60:])
        start = _WORD_START.match(line)
        if broken and start and line[0].islower():
            keep = f"{broken[1]}-{start.group()}" in text
            joined = (joined if keep else joined[:-1]) + line
        elif _CJK_END.search(joined) or _CJK_END.match(line[:1]):
            joined += line
        else:
            joined += " " + line
    return joined
