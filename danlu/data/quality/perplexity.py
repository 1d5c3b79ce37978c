"""Surprise: how many bits a small model of clean text needs for each byte of another.

Clean text in, clean text out: a page like what the model has read costs little, a page of keywords, of broken encoding
or of another language much, and a page of one sentence repeated almost nothing. Both ends can be cut (as CCNet does).

The model counts runs of characters (not bytes: a Han character is three of them; not words: Chinese has none marked)
up to five long, and mixes all lengths as Witten and Bell (1991) do. With n(h) readings of the context h, of which t(h)
were followed by different characters,

    P(c | h) = (n(h c) + t(h) · P(c | h without its first character)) / (n(h) + t(h))

down to P(c) = 256^(-bytes of c) for what was never seen: so every text has a probability, and bits per byte compare
across languages.

Counts live in hash tables of a fixed size: one slot a run, a check of 16 bits to know it by, and of two runs that want
one slot the more frequent stays. So memory is what it is, whatever the corpus; what is lost are rare runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.core.artifact import read_json, write_json
from danlu.core.errors import UserError

ORDER = 5
_CHUNK_CHARS = 4_000_000
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MIXER = np.uint64(0xC2B2AE3D27D4EB4F)
_START = np.uint32(0x110000)  # what stands before the first character
Scorer = Callable[[Sequence[str]], NDArray[np.floating]]  # any model: texts -> bits per byte [D]


Table = NDArray[np.uint64]  # [slots] of check << 48 | followers t << 28 | count n; one look-up a run is one cache line
_COUNT_BITS, _FOLLOWER_BITS = 28, 20


class NgramModel:
    """`train` or `load` one, then `bits_per_byte(texts)`."""

    def __init__(self, tables: list[Table]) -> None:
        self.tables = tables  # of lengths 0 (the empty run), 1, ..., ORDER

    @classmethod
    def train(cls, texts: Iterable[str], slots: int = 1 << 21) -> NgramModel:
        """Count the runs of `texts`; `slots` (a power of two) for each length. Raises UserError without text."""
        found: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = [
            (np.empty(0, np.uint64), np.empty(0, np.int64))
        ] * (ORDER + 1)
        parents: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)] * (ORDER + 1)
        for chunk in _chunks(texts):
            runs = _runs(chunk)
            # A text is counted from the last of its marks on: what stands before that belongs to another text.
            own = (chunk != _START) | np.append(chunk[1:] != _START, False)
            for length in range(1, ORDER + 1):
                keys, first, counts = np.unique(runs[length][own], return_index=True, return_counts=True)
                contexts = _contexts(runs, length)[own][first]
                found[length], parents[length] = _merge(
                    found[length], parents[length], keys, counts, contexts, 2 * slots
                )
        if not len(found[1][0]):
            raise UserError("there is no text to count", "give a corpus with documents")
        tables: list[Table] = []
        for length in range(ORDER + 1):
            keys, counts = found[length]
            if length == 0:
                keys, counts = np.zeros(1, np.uint64), np.array([found[1][1].sum()])
            followers = np.zeros(len(keys), dtype=np.int64)
            if length < ORDER:
                heard, times = np.unique(parents[length + 1], return_counts=True)
                at = np.minimum(np.searchsorted(heard, keys), max(len(heard) - 1, 0))
                if len(heard):
                    followers = np.where(heard[at] == keys, times[at], 0)
            tables.append(_table(keys, counts, followers, slots if length else 1))
        return cls(tables)

    def bits_per_byte(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [D]; NaN for an empty text."""
        return np.array([self._score(text) for text in texts], dtype=np.float32)

    def _score(self, text: str) -> float:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        if not len(codes):
            return float("nan")
        widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
        bits = 0.0
        for start in range(0, len(codes), _CHUNK_CHARS):
            part = codes[max(start - ORDER, 0) : start + _CHUNK_CHARS]
            likely = self._probabilities(part, widths[max(start - ORDER, 0) : start + _CHUNK_CHARS])
            bits -= float(np.log2(likely[min(start, ORDER) :]).sum())
        return bits / int(widths.sum())

    def _probabilities(self, codes: NDArray[np.uint32], widths: NDArray[np.int64]) -> NDArray[np.float64]:
        """float64 [N]: P of each character given the up to four before it."""
        runs, start = _runs(codes), _runs(np.full(1, _START, np.uint32))
        likely: NDArray[np.float64] = np.power(256.0, -widths.astype(np.float64))
        count, followers = find(self.tables[0], runs[0])
        for length in range(1, ORDER + 1):
            heard, after = count, followers  # of the shorter run; what stands before a character ended one earlier
            if length > 1:
                first = find(self.tables[length - 1], start[length - 1])
                heard, after = (np.append(f, column[:-1]) for f, column in zip(first, (count, followers), strict=True))
            count, followers = find(self.tables[length], runs[length])
            mixed = (count + after * likely) / np.maximum(heard + after, 1.0)
            likely = np.where(after > 0, mixed, likely)
        return likely

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        write_json(folder / "ngram.json", {"order": ORDER, "version": 1})
        save_file(
            {f"runs of {length}": table for length, table in enumerate(self.tables)}, folder / "ngram.safetensors"
        )

    @classmethod
    def load(cls, folder: Path | str) -> NgramModel:
        """Raises UserError when there is no model or it is damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        hint = "data.train_perplexity makes one"
        about = read_json(Path(folder) / "ngram.json", hint)
        try:
            arrays = load_file(Path(folder) / "ngram.safetensors")
            tables = [arrays[f"runs of {length}"] for length in range(int(about["order"]) + 1)]
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{folder} holds no n-gram model that can be read ({error})", hint) from None
        return cls(tables)


def find(table: Table, keys: NDArray[np.uint64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, t) of each key, 0 for what is not there: float64 [N] both."""
    slots, checks = _place(keys, len(table))
    entry = table[slots]
    entry = np.where(entry >> np.uint64(48) == checks, entry, np.uint64(0))
    count = entry & np.uint64((1 << _COUNT_BITS) - 1)
    followers = (entry >> np.uint64(_COUNT_BITS)) & np.uint64((1 << _FOLLOWER_BITS) - 1)
    return count.astype(np.float64), followers.astype(np.float64)


def _chunks(texts: Iterable[str]) -> Iterable[NDArray[np.uint32]]:
    """Texts end to end, marks of a start before each, in pieces that bound the memory of counting."""
    pieces: list[NDArray[np.uint32]] = []
    size = 0
    for text in texts:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        pieces += [np.full(ORDER, _START, np.uint32), codes]
        size += len(codes) + 1
        if size >= _CHUNK_CHARS:
            yield np.concatenate(pieces)
            pieces, size = [], 0
    if pieces:
        yield np.concatenate(pieces)


def _runs(codes: NDArray[np.uint32]) -> list[NDArray[np.uint64]]:
    """Keys of the runs of 0 .. ORDER characters that end at each character: ORDER + 1 times uint64 [N]."""
    before = np.concatenate([np.full(ORDER, _START, np.uint32), codes]).astype(np.uint64)
    n = len(codes)
    runs = [np.zeros(n, dtype=np.uint64)]
    rolled, power = np.zeros(n, dtype=np.uint64), np.uint64(1)
    for k in range(ORDER):  # the k-th character back
        rolled = rolled + (before[ORDER - k : ORDER - k + n] + np.uint64(1)) * power
        with np.errstate(over="ignore"):
            power = power * _FACTOR
        runs.append((rolled ^ (rolled >> np.uint64(31))) * _MIXER)
    return runs


def _contexts(runs: list[NDArray[np.uint64]], length: int) -> NDArray[np.uint64]:
    """What stands before the last character of each run of `length`: the run of length - 1 that ended one earlier."""
    shorter = runs[length - 1]
    if length == 1 or not len(shorter):
        return shorter
    first = _runs(np.full(1, _START, np.uint32))[length - 1]
    return np.concatenate([first, shorter[:-1]])


def _merge(
    old: tuple[NDArray[np.uint64], NDArray[np.int64]],
    old_parents: NDArray[np.uint64],
    keys: NDArray[np.uint64],
    counts: NDArray[np.int64],
    parents: NDArray[np.uint64],
    most: int,
) -> tuple[tuple[NDArray[np.uint64], NDArray[np.int64]], NDArray[np.uint64]]:
    """Counts of both; when they are more than `most` runs, the rarest go, smaller keys staying among equals."""
    everything = np.concatenate([old[0], keys])
    order = np.argsort(everything, kind="stable")  # two sorted halves: a merge
    everything = everything[order]
    first = np.flatnonzero(np.append(True, everything[1:] != everything[:-1])) if len(everything) else order
    distinct = everything[first]
    summed = np.add.reduceat(np.concatenate([old[1], counts])[order], first) if len(first) else counts
    before = np.concatenate([old_parents, parents])[order][first]
    if len(distinct) > most:
        kept = np.sort(np.lexsort((distinct, -summed))[:most])
        distinct, summed, before = distinct[kept], summed[kept], before[kept]
    return (distinct, summed), before


def _place(keys: NDArray[np.uint64], slots: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    return (keys & np.uint64(slots - 1)).astype(np.int64), (keys >> np.uint64(48)) | np.uint64(1)  # check 0: empty


def _table(keys: NDArray[np.uint64], counts: NDArray[np.int64], followers: NDArray[np.int64], slots: int) -> Table:
    where, checks = _place(keys, slots)
    n = np.minimum(counts, (1 << _COUNT_BITS) - 1).astype(np.uint64)
    t = np.minimum(followers, (1 << _FOLLOWER_BITS) - 1).astype(np.uint64)
    table = np.zeros(slots, dtype=np.uint64)
    order = np.lexsort((keys, counts))  # the most frequent is written last and stays
    table[where[order]] = (checks << np.uint64(48) | t << np.uint64(_COUNT_BITS) | n)[order]
    return table
