"""What is known and what becomes of each row of a measured corpus, while `data.select` decides: arrays, no texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Where a document goes. REFUSED has its reason in `Index.codes`, duplicates have one in `DUPLICATE`.
TRAIN, VALIDATION, NOT_DRAWN, REFUSED, EXACT, URL, NEAR, SEMANTIC, PARTS = range(9)
KEPT = (TRAIN, VALIDATION)
DUPLICATE = {
    EXACT: "duplicate:exact",
    URL: "duplicate:url",
    NEAR: "duplicate:near",
    SEMANTIC: "duplicate:semantic",
    PARTS: "duplicate:parts",
}


@dataclass(frozen=True)
class Index:
    """What is remembered of each row: parallel arrays in the order of reading, 30 bytes a row. Hashes lie in files."""

    ids: NDArray[np.uint64]  # [D] the 16 hex digits as a number: the same order
    parts: NDArray[np.int32]  # [D]
    draws: NDArray[np.float64]  # [D]
    sizes: NDArray[np.int64]  # [D] bytes
    codes: NDArray[np.int16]  # [D] reasons of the judge, 0 to keep
    text_hashes: Path  # 16 bytes a row, for `dedup.exact`
    urls: Path  # the same of meta.url; zeros without one
    origins: dict[int, int] = field(default_factory=dict)  # row -> whole document, only of parts: few, since large

    @classmethod
    def empty(cls, count: int, work: Path) -> Index:
        """Room for so many rows, to be filled; files in `work`."""
        return cls(
            ids=np.empty(count, np.uint64),
            parts=np.empty(count, np.int32),
            draws=np.empty(count, np.float64),
            sizes=np.empty(count, np.int64),
            codes=np.empty(count, np.int16),
            text_hashes=work / "texts.hashes",
            urls=work / "urls.hashes",
        )

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, row: int) -> str:
        """The id as it is written in the corpus."""
        return Names(self.ids)[row]


class Names(Sequence[str]):
    """Ids as they are written, made when they are asked for: a list of them would be eight times as large."""

    def __init__(self, ids: NDArray[np.uint64]) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, row: Any) -> Any:
        return f"{int(self._ids[row]):016x}"


@dataclass
class Fate:
    """What becomes of each row of the index."""

    where: NDArray[np.int8]  # [D] TRAIN, VALIDATION, ...
    kept_instead: NDArray[np.uint32]  # [D] row of the document that a duplicate is dropped for; itself for all others
    similarity: NDArray[np.float32]  # [D] with that one
    near_clusters: int = 0
    groups: int = 0
    largest_group: int = 0
    topics: list[dict[str, object]] = field(default_factory=list)

    @classmethod
    def of(cls, where: NDArray[np.int8]) -> Fate:
        return cls(where, np.arange(len(where), dtype=np.uint32), np.zeros(len(where), np.float32))

    def drop(
        self, rows: NDArray[Any], place: int, instead: NDArray[Any], similarity: NDArray[np.float32] | float
    ) -> None:
        """These rows go to `place`, one each for `instead`."""
        self.where[rows] = place
        self.kept_instead[rows] = instead
        self.similarity[rows] = similarity

    def copies(self) -> NDArray[np.uint32]:
        """uint32 [D]: documents that each one stands for, itself included."""
        dropped = self.kept_instead != np.arange(len(self.where), dtype=np.uint32)
        kept, times = np.unique(self.kept_instead[dropped], return_counts=True)
        copies = np.ones(len(self.where), dtype=np.uint32)
        copies[kept] += times.astype(np.uint32)
        return copies

    @property
    def kept(self) -> NDArray[np.bool_]:
        return np.isin(self.where, KEPT)
