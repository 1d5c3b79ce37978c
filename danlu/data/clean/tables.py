"""Remains of tables: rules without rows and rows without content.

    +------+------+      gone: a rule                    | name | size |      stays: a row
    | ---- | ---- |      gone, unless a row of as many   |      |      |      gone: an empty row
                         cells stands above it
    ┌──────┬──────┐      gone: a rule                    │ 名称 │ 大小 │      stays

Rows keep their cells; wide blanks between the cells of one row shrink to one.
"""

from __future__ import annotations

import re

_RULE = re.compile(r"[\s|+:\-=_─━│┃┄┅┆┇┈┉┊┋┌-╿═╪]{4,}$")
_RULE_MARK = re.compile(r"[|+│┃┌-╿]|[-─━═]{4}")
_EMPTY_ROW = re.compile(r"\s*[|│┃](?:\s*[|│┃])+\s*$")
_ROW = re.compile(r"\s*[|│┃].*[|│┃]\s*$")
_PADDING = re.compile(r"(?<=\S)[ \t\u3000]{2,}(?=[|│┃])|(?<=[|│┃])[ \t\u3000]{2,}(?=\S)")
_BORDER = re.compile("[|│┃+─-╿]")


def tidy_tables(text: str) -> tuple[str, int]:
    """Returns the text and how many lines were taken away or tidied."""
    if not _BORDER.search(text):
        return text, 0
    kept: list[str] = []
    count = 0
    for line in text.split("\n"):
        if _EMPTY_ROW.match(line):
            count += 1
        elif _RULE.match(line) and _RULE_MARK.search(line):
            above = kept[-1] if kept else ""
            heads = line.lstrip().startswith("|") and _ROW.match(above) and above.count("|") == line.count("|")
            underlines = not _BORDER.search(line) and bool(above.strip())  # a heading of Markdown or of a plain text
            if heads or underlines:
                kept.append(line)
            else:
                count += 1
        elif _ROW.match(line):
            tidy = _PADDING.sub(" ", line)
            count += tidy != line
            kept.append(tidy)
        else:
            kept.append(line)
    return "\n".join(kept), count
