"""What is known and what becomes of each row of a measured corpus, while `data.select` decides: arrays, no texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """What is remembered of each row: parallel arrays in the order of reading, about 70 bytes a row."""

    ids: NDArray[np.uint64]  # [D] the 16 hex digits as a number: the same order
    text_hashes: NDArray[np.void]  # [D] 16 bytes
    urls: NDArray[np.void]  # [D] 16 bytes, of meta.url; zeros without one
    origins: NDArray[np.uint64]  # [D]
    parts: NDArray[np.int32]  # [D]
    draws: NDArray[np.float64]  # [D]
    sizes: NDArray[np.int64]  # [D] bytes
    codes: NDArray[np.int16]  # [D] reasons of the judge, 0 to keep

    @classmethod
    def empty(cls, count: int) -> Index:
        """Room for so many rows, to be filled."""
        types = (np.uint64, "V16", "V16", np.uint64, np.int32, np.float64, np.int64, np.int16)
        return cls(*(np.empty(count, dtype=kind) for kind in types))

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
    kept_instead: NDArray[np.int64]  # [D] row of the document that a duplicate is dropped for; -1 for all others
    similarity: NDArray[np.float32]  # [D] with that one
    near_clusters: int = 0
    groups: int = 0
    largest_group: int = 0
    topics: list[dict[str, object]] = field(default_factory=list)

    @classmethod
    def of(cls, where: NDArray[np.int8]) -> Fate:
        return cls(where, np.full(len(where), -1, np.int64), np.zeros(len(where), np.float32))

    def drop(
        self, rows: NDArray[np.int64], place: int, instead: NDArray[np.int64], similarity: NDArray[np.float32] | float
    ) -> None:
        """These rows go to `place`, one each for `instead`."""
        self.where[rows] = place
        self.kept_instead[rows] = instead
        self.similarity[rows] = similarity

    @property
    def kept(self) -> NDArray[np.bool_]:
        return np.isin(self.where, KEPT)
