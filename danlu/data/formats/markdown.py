"""Markdown from structures: tables of any origin, and HTML that is all text (chapters of a book, bodies of mails).

Web pages go another way (`html`): there most of what stands in the file is not the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_BLOCKS = frozenset(
    [
        "p",
        "div",
        "section",
        "article",
        "blockquote",
        "ul",
        "ol",
        "dl",
        "dt",
        "dd",
        "li",
        "table",
        "tr",
        "pre",
        "figure",
        "figcaption",
        "header",
        "footer",
        "main",
        "aside",
        "body",
        "html",
        "center",
        "address",
        "form",
        "fieldset",
        "hr",
    ]
) | frozenset(_HEADINGS)
_SILENT = frozenset({"script", "style", "head", "nav", "template", "svg", "math-annotation", "title"})


def table(rows: Iterable[Iterable[str]]) -> str:
    """Rows of cells as a Markdown table, the first row as its head; "" for no rows.

    >>> print(table([["a", "b"], ["1", "x|y"]]))
    | a | b |
    | --- | --- |
    | 1 | x\\|y |
    """
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    cells = [row for row in cells if any(row)]
    if not cells:
        return ""
    width = max(map(len, cells))
    lines = ["| " + " | ".join([*row, *[""] * (width - len(row))]) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


def parse_html(data: bytes, encoding: str = "utf-8") -> Any:
    """The tree of HTML or XHTML, or None when there is nothing in it. Depth is bounded by the parser (256)."""
    from lxml import etree, html

    parser = html.HTMLParser(encoding=encoding, remove_comments=True, remove_pis=True, collect_ids=False)
    try:
        return html.document_fromstring(re.sub(rb"^\s*<\?xml[^>]*>", b"", data), parser=parser)
    except (etree.LxmlError, ValueError, AssertionError):
        return None


def from_html(tree: Any) -> str:
    """All text of a tree: headings, paragraphs, lists, tables and code as Markdown."""
    out = _Blocks()
    _walk(tree, out, "", False)
    out.end()
    return join(out.blocks)


def join(blocks: Iterable[tuple[bool, str]]) -> str:
    """(is a list item, text) in their order, an empty line between them except between the items of a list."""
    parts: list[str] = []
    before = False
    for is_item, block in blocks:
        parts += ["\n" if before and is_item else "\n\n", block]
        before = is_item
    return "".join(parts).strip("\n")


class _Blocks:
    """Finished blocks, and the one being written; `prefix` is what it will begin with."""

    def __init__(self) -> None:
        self.blocks: list[tuple[bool, str]] = []
        self.prefix = ""
        self.is_item = False
        self._parts: list[str] = []

    def text(self, value: str | None) -> None:
        if value:
            self._parts.append(value)

    def begin(self, prefix: str, is_item: bool) -> None:
        self.prefix, self.is_item = prefix, is_item

    def end(self) -> None:
        lines = [" ".join(line.split()) for line in "".join(self._parts).split("\r")]
        text = "\n".join(line for line in lines if line)
        if text:
            self.blocks.append((self.is_item, self.prefix + text))
            self.begin("", False)
        self._parts = []


def _walk(element: Any, out: _Blocks, indent: str, ordered: bool) -> None:
    tag = element.tag
    if not isinstance(tag, str) or tag in _SILENT:
        return
    if tag == "br":
        out.text("\r")
    elif tag == "pre":
        out.end()
        code = "".join(element.itertext()).strip("\n")
        if code.strip():
            out.blocks.append((False, f"```\n{code}\n```"))
    elif tag == "table" and not any(True for _ in element.iterdescendants("table")):
        out.end()
        rows = [["".join(cell.itertext()) for cell in row.iter("td", "th")] for row in element.iter("tr")]
        text = table(rows)
        if text:
            out.blocks.append((False, text))
    else:
        block = tag in _BLOCKS
        if block:
            out.end()
        if tag in _HEADINGS:
            out.begin(_HEADINGS[tag] + " ", False)
        elif tag == "li":
            out.begin(indent + ("1. " if ordered else "- "), True)
        out.text(element.text)
        inner = indent + "  " if tag == "li" else indent
        for child in element:
            _walk(child, out, inner, tag == "ol" if tag in ("ol", "ul") else ordered)
            out.text(child.tail)
        if block:
            out.end()
            out.begin("", False)
