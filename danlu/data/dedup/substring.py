"""Long passages that stand in more than one document: a licence, a quoted speech, a chapter in two anthologies.

A passage of K symbols that also stands in a document with a smaller id is cut out, and so everything is cut that lies
in any such passage. Longer ones are covered by their parts of K. The first document keeps its text (Lee et al.,
arXiv:2107.06499, with K = 50 tokens; here 100 units, about a paragraph).

Not by a suffix array, but by hashes in spill files (docs/decisions/0021 has the measurement): an array needs five to
nine bytes of *memory* for a byte of all text, this needs what it is given.

    look    every document: runs of K/2 symbols are hashed and winnowed, which keeps about one in K/4; spilled
    prepare sorted: the hashes that stand in more than one document are *repeated anchors*
    mark    every document again: the runs of K symbols that hold a repeated anchor, with 128 bits of hash; spilled
    finish  sorted: a run whose first document is another one is cut; spans, by document

It is exact, up to two different runs with the same 128 bits: a passage of K symbols holds an anchor that depends on
nothing outside it, so both of its copies have the same one. In text without repetitions `mark` spills nothing; where
all is repeated it spills 24 bytes a symbol.

Symbols are units (`danlu.core.text`: punctuation, spaces and line breaks do not count) or bytes. Documents come as
(number, symbols): the number is the rank of the document by id, below 2^32, and they may come in any order and in
batches of any size. Runs that repeat inside one document only are left alone, as refrains, tables and code have them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import UserError
from danlu.core.text import units
from danlu.data.dedup.minhash import UnitHashes
from danlu.data.dedup.spill import DamagedSpill, Spill
from danlu.data.dedup.tables import records
from danlu.data.dedup.windows import window_hashes, winnow

AT_LEAST = 100  # units
Symbols = Literal["units", "bytes"]

_BATCH = 1 << 17  # symbols hashed together: a few MB of arrays, and numpy's calls do not count
_SECOND_SEED = 0x5BF03635


def symbols(text: str, kind: Symbols, hashes: UnitHashes | None = None) -> NDArray[np.uint64]:
    """uint64 [S]: a number for every unit or byte. Give the same `hashes` to every call: it remembers units."""
    if kind == "bytes":
        return np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.uint64)
    found = units(text)
    known = hashes if hashes is not None else UnitHashes()
    return np.fromiter(map(known.__getitem__, found), dtype=np.uint64, count=len(found))


class Repeats:
    """Finds repeated passages: `look` at all documents, `prepare`, `mark` all again, `finish`.

    at_least      K, the shortest passage that counts, in symbols
    expected      symbols in all (a guess; decides how many files there are)
    memory_bytes  for sorting; besides it a batch of documents is in memory
    """

    def __init__(self, work: Path, at_least: int = AT_LEAST, expected: int = 0, memory_bytes: int = 1 << 30) -> None:
        if at_least < 4:
            raise UserError(f"passages of {at_least} symbols are everywhere", "at_least must be 4 or more")
        self.work, self.at_least, self.memory_bytes = work, at_least, memory_bytes
        self._short = at_least // 2
        self._window = at_least - self._short + 1  # short runs in a long one
        self._expected = expected
        self._anchors = Spill(work, "anchors", 3, expected // max(self._window // 2, 1), memory_bytes)
        self._runs = Spill(work, "runs", 6, expected // 10, memory_bytes)
        self._repeated: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._waiting: list[tuple[int, NDArray[np.uint64]]] = []
        self._waiting_symbols = 0
        self._last = 0  # the largest number of a document

    # ---- first pass ----

    def look(self, number: int, document: NDArray[np.uint64]) -> None:
        """First pass over a document: uint64 [S]."""
        self._last = max(self._last, number)
        self._collect(number, document, self._look_at)

    def _collect(self, number: int, document: NDArray[np.uint64], work: Callable[[], None]) -> None:
        if len(document) >= self.at_least:
            self._waiting.append((number, document))
            self._waiting_symbols += len(document)
            if self._waiting_symbols >= _BATCH:
                work()
                self._waiting, self._waiting_symbols = [], 0

    def _batch(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.int64], NDArray[np.bool_]]:
        """(symbols [S], each one's document [S], its place there [S], which long runs lie in one document)."""
        lengths = np.array([len(document) for _, document in self._waiting])
        together = np.concatenate([document for _, document in self._waiting])
        numbers = np.repeat(np.array([number for number, _ in self._waiting], dtype=np.uint32), lengths)
        ends = np.cumsum(lengths)
        places = np.arange(len(together)) - np.repeat(ends - lengths, lengths)
        left = np.repeat(lengths, lengths) - places
        return together, numbers, places, left[: len(together) - self.at_least + 1] >= self.at_least

    def _look_at(self) -> None:
        if not self._waiting:
            return
        together, numbers, _, inside = self._batch()
        hashes = window_hashes(together, self._short)
        chosen = np.flatnonzero(winnow(hashes, self._window, inside))
        self._anchors.add(records(hashes[chosen], numbers[chosen]))

    def prepare(self) -> None:
        """End of the first pass: find the anchors that stand in more than one document."""
        self._look_at()
        self._waiting, self._waiting_symbols = [], 0
        self._anchors.commit()
        place = self.work / "repeated-anchors.u64"
        place.parent.mkdir(parents=True, exist_ok=True)
        last = np.zeros((0, 3), dtype=np.uint32)
        with place.open("wb") as file:
            written = -1
            for piece in self._anchors.ascending():
                both = np.concatenate([last, piece])
                same = (both[1:, :2] == both[:-1, :2]).all(axis=1) & (both[1:, 2] != both[:-1, 2])
                found = np.unique(_wide(both[1:][same], 0))
                found = found[found != np.uint64(written)] if written >= 0 else found
                if len(found):
                    file.write(found.tobytes())
                    written = int(found[-1])
                last = both[-1:]
        self._anchors.remove()
        self._repeated = np.memmap(place, dtype=np.uint64, mode="r") if place.stat().st_size else self._repeated

    # ---- second pass ----

    def mark(self, number: int, document: NDArray[np.uint64]) -> None:
        """Second pass over the same document."""
        if len(self._repeated):
            self._collect(number, document, self._mark_in)

    def _mark_in(self) -> None:
        if not self._waiting:
            return
        together, numbers, places, inside = self._batch()
        hashes = window_hashes(together, self._short)
        chosen = np.flatnonzero(winnow(hashes, self._window, inside))
        at = np.searchsorted(self._repeated, hashes[chosen])
        at[at == len(self._repeated)] = 0
        chosen = chosen[self._repeated[at] == hashes[chosen]]
        if not len(chosen):
            return
        # Long runs that hold a chosen place: those that begin up to window - 1 places before it.
        change = np.zeros(len(inside) + 1, dtype=np.int64)
        np.add.at(change, np.maximum(chosen - self._window + 1, 0), 1)
        np.add.at(change, np.minimum(chosen, len(inside) - 1) + 1, -1)
        runs = np.flatnonzero((np.cumsum(change)[:-1] > 0) & inside)
        one, two = (window_hashes(together, self.at_least, seed)[runs] for seed in (0, _SECOND_SEED))
        self._runs.add(np.concatenate([records(one), records(two, numbers[runs], places[runs].astype(np.uint32))], 1))

    def finish(self) -> Spans:
        """End of the second pass: the spans to cut, in files under `work`."""
        self._mark_in()
        self._waiting, self._waiting_symbols = [], 0
        self._runs.commit()
        scale = np.uint64((1 << 32) // (self._last + 1))  # spreads documents evenly over the files
        places = Spill(self.work, "places", 2, self._expected // 10, self.memory_bytes)
        head = np.zeros((0, 6), dtype=np.uint32)
        for piece in self._runs.ascending():
            both = np.concatenate([head, piece])
            new = np.append(True, (both[1:, :4] != both[:-1, :4]).any(axis=1))
            first = np.maximum.accumulate(np.where(new, np.arange(len(both)), 0))
            later = both[both[:, 4] != both[first, 4]]
            cut = np.stack([later[:, 4].astype(np.uint64) * scale, later[:, 5]], axis=1).astype(np.uint32)
            places.add(cut)
            head = both[first[-1:]]  # the first of the group that may go on
        self._runs.remove()
        places.commit()
        folder = self.work / "spans.u32"
        _write_spans(folder, places, int(scale), self.at_least)
        places.remove()
        (self.work / "repeated-anchors.u64").unlink(missing_ok=True)
        return Spans(folder)


def _wide(rows: NDArray[np.uint32], column: int) -> NDArray[np.uint64]:
    return (rows[:, column].astype(np.uint64) << np.uint64(32)) | rows[:, column + 1]


def _write_spans(folder: Path, places: Spill, scale: int, at_least: int) -> None:
    """Runs that overlap or touch become one span: (document, begin, end), ascending."""
    part = folder.with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    open_span = np.zeros((0, 3), dtype=np.uint32)
    with part.open("wb") as file:
        for piece in places.ascending():
            spans = np.empty((len(piece), 3), dtype=np.uint32)
            spans[:, 0], spans[:, 1], spans[:, 2] = piece[:, 0] // scale, piece[:, 1], piece[:, 1] + at_least
            spans = np.concatenate([open_span, spans])
            # Begins ascend inside a document, so ends do too: what begins behind the last end is a new span.
            new = np.append(True, (spans[1:, 0] != spans[:-1, 0]) | (spans[1:, 1] > spans[:-1, 2]))
            starts = np.flatnonzero(new)
            merged = spans[starts]
            merged[:, 2] = np.maximum.reduceat(spans[:, 2], starts) if len(starts) else merged[:, 2]
            file.write(merged[:-1].tobytes())
            open_span = merged[-1:]
        file.write(open_span.tobytes())
    os.replace(part, folder)


class Spans:
    """Where to cut: uint32 [S, 3] = (document, begin, end) in symbols, ascending, mapped from a file."""

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        if size % 12:
            raise DamagedSpill(path, f"{size} bytes are no whole number of spans")
        rows = np.memmap(path, dtype=np.uint32, mode="r").reshape(-1, 3) if size else np.empty((0, 3), np.uint32)
        self.rows: NDArray[np.uint32] = rows

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, number: int) -> list[tuple[int, int]]:
        """The spans of one document as (begin, end) in symbols."""
        first, last = np.searchsorted(self.rows[:, 0], [number, number + 1])
        return [(int(begin), int(end)) for _, begin, end in self.rows[first:last]]


def repeated_spans(
    documents: Callable[[], Iterable[tuple[int, str]]],
    work: Path,
    *,
    kind: Symbols = "units",
    at_least: int = AT_LEAST,
    memory_bytes: int = 1 << 30,
) -> Spans:
    """Both passes over documents that can be read twice: `documents()` yields (number, text)."""
    shutil.rmtree(work, ignore_errors=True)
    hashes = UnitHashes()
    repeats = Repeats(work, at_least, memory_bytes=memory_bytes)
    for number, text in documents():
        repeats.look(number, symbols(text, kind, hashes))
    repeats.prepare()
    for number, text in documents():
        repeats.mark(number, symbols(text, kind, hashes))
    return repeats.finish()


def cut(text: str, spans: list[tuple[int, int]], kind: Symbols = "units") -> tuple[str, list[str]]:
    """The text without its spans, and what was cut out.

    A span of units reaches from its first to its last unit: punctuation around it stays. A span of bytes never cuts a
    character in two: it keeps what it only half covers.
    """
    if not spans:
        return text, []
    borders = _borders_of_bytes(text, spans) if kind == "bytes" else _borders_of_units(text, spans)
    kept, out, at = [], [], 0
    for begin, end in borders:
        kept.append(text[at:begin])
        out.append(text[begin:end])
        at = end
    return "".join([*kept, text[at:]]), [piece for piece in out if piece]


def _borders_of_units(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    begins, ends, at = [], [], 0
    for unit in units(text):
        begin = text.index(unit, at)  # between units there is nothing that could be part of one
        at = begin + len(unit)
        begins.append(begin)
        ends.append(at)
    return [(begins[begin], ends[end - 1]) for begin, end in spans]


def _borders_of_bytes(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    data = text.encode("utf-8", "surrogatepass")
    borders = []
    for begin, end in spans:
        while begin < end and data[begin] & 0xC0 == 0x80:
            begin += 1
        while end > begin and end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        if begin == end:  # it lay inside one character
            continue
        before = len(data[:begin].decode("utf-8", "surrogatepass"))
        borders.append((before, before + len(data[begin:end].decode("utf-8", "surrogatepass"))))
    return borders
