"""The books of `data.prepare`: what was kept, what was dropped and why, and what was drawn.

`Index` remembers a few hashes per kept document, so that everything about duplicates and the split can be decided
without the texts. `Rejected` writes dropped rows and counts them. `Sample` draws a fixed share of an unknown total
in one pass.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np

from danlu.data.dedup.minhash import DEFAULT_SHINGLE_UNITS, SHINGLE_UNITS, Signatures, UnitHashes, text_hash
from danlu.data.document import ShardWriter

_SAMPLES = 3  # dropped documents shown per reason in the report
_EXCERPT = 160  # characters of each


@dataclass(frozen=True)
class Judged:
    """One cleaned document on its way: its row, and why it is dropped ("" to keep it)."""

    row: dict[str, str]
    units: list[str]
    reason: str = ""
    detail: str = ""
    origin: str = ""  # id of the whole document; the row's own id unless this is a part of a long one
    part: int = 0
    draw: float = 0.0


@dataclass
class Index:
    """What is remembered of each document of the spill: parallel lists in the order of reading."""

    ids: list[str] = field(default_factory=list)
    text_hashes: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # bytes of text in UTF-8
    origins: list[str] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    draws: list[float] = field(default_factory=list)
    signatures: Signatures = field(default_factory=Signatures)
    sample_border: float = 1.0  # documents with a draw below it are in the sample
    _unit_hashes: UnitHashes = field(default_factory=UnitHashes)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, judged: Judged) -> None:
        self.ids.append(judged.row["id"])
        self.text_hashes.append(text_hash(judged.row["text"]))
        self.sizes.append(len(judged.row["text"].encode()))
        self.origins.append(judged.origin)
        self.parts.append(judged.part)
        self.draws.append(judged.draw)
        units = judged.units
        hashes = np.fromiter(map(self._unit_hashes.__getitem__, units), dtype=np.uint64, count=len(units))
        n = SHINGLE_UNITS.get(judged.row["language"], DEFAULT_SHINGLE_UNITS)
        self.signatures.add(hashes, n)


@dataclass
class Intake:
    """What came in, before anything was dropped."""

    files: int = 0
    texts: int = 0
    bytes: int = 0
    by_source: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    cleaned: Counter[str] = field(default_factory=Counter)  # step of `clean` -> texts it changed
    not_drawn: int = 0

    def count(self, source: str, size: int) -> None:
        self.texts += 1
        self.bytes += size
        counts = self.by_source[source]
        counts["texts"] += 1
        counts["bytes"] += size


class Rejected:
    """Writes what is dropped, counts it by reason and keeps the first few of each reason for the report."""

    def __init__(self, writer: ShardWriter) -> None:
        self._writer = writer
        self.counts: Counter[str] = Counter()
        self.samples: dict[str, list[dict[str, str]]] = defaultdict(list)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def add(self, row: dict[str, str], reason: str, detail: str = "") -> None:
        self._writer.write({**row, "reason": reason})
        self.counts[reason] += 1
        if len(self.samples[reason]) < _SAMPLES:
            text = row["text"][:_EXCERPT]
            self.samples[reason].append({"id": row["id"], "meta": row["meta"], "text": text, "detail": detail})


class Sample:
    """The documents with the smallest draws, as many as the limits allow, found in one pass.

    Once a draw has been refused, all larger ones are: the result is a prefix of the documents in the order of their
    draws, whatever order they are read in. `border` says early that a document need not even be cleaned.
    """

    def __init__(self, max_documents: int | None, max_bytes: int | None) -> None:
        self._max_documents = max_documents or float("inf")
        self._max_bytes = max_bytes or float("inf")
        self._heap: list[tuple[float, int]] = []  # (-draw, bytes): the largest draw on top
        self._bytes = 0
        self.border = 1.0  # draws are below 1; those at or above the border are out

    def add(self, draw: float, size: int) -> None:
        heapq.heappush(self._heap, (-draw, size))
        self._bytes += size
        while len(self._heap) > self._max_documents or self._bytes > self._max_bytes:
            largest, freed = heapq.heappop(self._heap)
            self._bytes -= freed
            self.border = min(self.border, -largest)
