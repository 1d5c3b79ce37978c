"""Jupyter notebooks: Markdown cells as they are, code cells as fenced code, outputs left out.

    {"cells": [{"cell_type": "markdown", "source": ["# Title\\n", ...]}, {"cell_type": "code", ...}],
     "metadata": {"kernelspec": {"language": "python"}}, "nbformat": 4}

Outputs are pictures, tables of numbers and tracebacks: what the code did once, not what somebody wrote. Version 3 keeps
its cells in worksheets and calls the source of code `input`. Source: the nbformat documentation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from danlu.data.formats.item import EXCERPT, Broken, Item
from danlu.data.formats.licence import find_licence
from danlu.data.formats.streams import read_all


def read_notebook(stream: BinaryIO) -> Iterator[Item | Broken]:
    try:
        notebook = json.loads(read_all(stream))
    except ValueError as error:
        yield Broken("unreadable", f"no JSON: {error}"[:EXCERPT])
        return
    if not isinstance(notebook, dict):
        yield Broken("unreadable", "no notebook")
        return
    language = _language(notebook)
    parts: list[str] = []
    counts = {"code": 0, "markdown": 0}
    for cell in _cells(notebook):
        source = cell.get("source", cell.get("input", ""))
        lines = source if isinstance(source, list) else [source]
        text = "".join(line for line in lines if isinstance(line, str)).strip("\n")
        kind = cell.get("cell_type")
        if not text.strip() or kind not in ("code", "markdown", "heading", "raw"):
            continue
        if kind == "code":
            fence = "````" if "```" in text else "```"
            text = f"{fence}{language}\n{text}\n{fence}"
        elif kind == "heading":
            text = "# " + text
        counts["code" if kind == "code" else "markdown"] += 1
        parts.append(text)
    if not parts:
        yield Broken("no_text", "no cell has text")
        return
    text = "\n\n".join(parts)
    yield Item(text, meta={"kernel": language, "code_cells": counts["code"]}, licence=find_licence(text))


def _cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    sheets = notebook.get("worksheets")
    holders = [notebook, *(sheets if isinstance(sheets, list) else [])]
    cells = [holder.get("cells") for holder in holders if isinstance(holder, dict)]
    return [cell for found in cells if isinstance(found, list) for cell in found if isinstance(cell, dict)]


def _language(notebook: dict[str, Any]) -> str:
    metadata = notebook.get("metadata")
    for name, key in (("language_info", "name"), ("kernelspec", "language")):
        info = metadata.get(name) if isinstance(metadata, dict) else None
        if isinstance(info, dict) and isinstance(info.get(key), str) and info[key].isidentifier():
            return str(info[key]).lower()
    return "python"
