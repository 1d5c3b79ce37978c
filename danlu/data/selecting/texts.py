"""The texts of some rows of a measured corpus, in the order of reading, a few thousand in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.core.stage import StageRun
from danlu.data.measured import read_measured
from danlu.data.scan import scan

_CHARACTERS = 4_000_000  # whose shingles are in memory at once


def read_texts(measured: Path, wanted: NDArray[np.bool_], run: StageRun) -> Iterator[tuple[int, str, str]]:
    """(row, language, text) of the rows that are wanted, bool [D]."""
    start = 0
    for batch in read_measured(measured, ["language", "text"]):
        run.stop_if_asked()
        mine = np.flatnonzero(wanted[start : start + len(batch)])
        if len(mine):
            taken = batch.take(mine)
            rows = (mine + start).tolist()
            yield from zip(rows, taken["language"].to_pylist(), taken["text"].to_pylist(), strict=True)
        start += len(batch)


def read_shingles(measured: Path, wanted: NDArray[np.bool_], run: StageRun) -> Iterator[NDArray[np.uint32]]:
    """The set of shingles of each of these rows, ascending (`scan`)."""
    texts: list[str] = []
    languages: list[str] = []
    size = 0
    for _, language, text in read_texts(measured, wanted, run):
        if size + len(text) > _CHARACTERS and texts:
            yield from _shingles(texts, languages)
            texts, languages, size = [], [], 0
        texts.append(text)
        languages.append(language)
        size += len(text)
    yield from _shingles(texts, languages)


def _shingles(texts: list[str], languages: list[str]) -> list[NDArray[np.uint32]]:
    found = scan(texts, languages, measures=False, signatures=False, shingles=True)
    return np.split(found.shingles, found.shingle_ends[:-1])[: len(texts)]
