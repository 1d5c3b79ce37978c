"""Pieces of sources (interim): groups of whole files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from danlu.data.formats.extract import Broken, Item
from danlu.data.sources.find import SourceFile, find_files


def plan_pieces(specs: Sequence[str], target_bytes: int) -> list[dict[str, Any]]:
    pieces: list[dict[str, Any]] = []
    for spec in specs:
        size = target_bytes
        for file in find_files(spec):
            if size >= target_bytes or pieces[-1]["spec"] != spec:
                pieces.append({"spec": spec, "names": []})
                size = 0
            pieces[-1]["names"].append(file.name)
            size += file.path.stat().st_size
    return pieces


def _files(spec: str) -> dict[str, SourceFile]:
    return {file.name: file for file in find_files(spec)}


def read_piece(piece: dict[str, Any], text_field: str | None) -> Iterator[tuple[SourceFile, Item | Broken]]:
    for name in piece["names"]:
        file = _files(piece["spec"])[name]
        for item in file.read(text_field):
            yield file, item
