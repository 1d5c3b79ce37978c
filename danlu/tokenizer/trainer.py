"""The compiled trainer: texts in, merges out, in bounded memory (the algorithm is in cpp/count.h and cpp/trainer.h).

    with Trainer(encoder, tokens, folder=..., budget=...) as trainer:
        trainer.add(texts)                                    # again and again, on all cores
        learned = trainer.learn(next_id=260, room=32508)      # Learned(merges uint32 [n, 3], ...)

The encoder says how texts are cut into pieces and what ids a piece begins with. For a tokenizer made from nothing it
knows the 256 bytes and no merge; for one that is extended (`extend.py`) it is the old tokenizer's, so that new merges
begin where the old ones ended.

Everything fits into `budget` bytes, whatever the corpus: half of it is for counting, and what does not fit goes to
files in `folder`; half is for learning, and where the distinct pieces are more than fit, the most frequent are learned
from and the number of the others is in the result. The result is a function of the texts and the budget alone, not of
threads or order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from danlu.core.errors import StageFailed
from danlu.tokenizer.encoder import Encoder, n_threads

BATCH_BYTES = 8_000_000  # characters that are handed over at a time: enough for all threads, little beside the budget


@dataclass(frozen=True)
class Learned:
    """What training gave: merges as (left id, right id, joined id), and what did not fit."""

    merges: np.ndarray  # uint32 [n, 3]
    pieces: int  # distinct pieces that were learned from
    dropped_pieces: int  # distinct pieces, all rarer, for which the budget had no room
    dropped_occurrences: int
    runs: int  # sorted files that counting needed

    def counts(self) -> dict[str, int]:
        """All but the merges, for a report."""
        return {key: value for key, value in vars(self).items() if key != "merges"}


class Trainer:
    """Counts and learns; a context manager, because its memory and its files are outside Python's care."""

    def __init__(self, encoder: Encoder, tokens: Mapping[bytes, int], *, folder: Path, budget: int) -> None:
        """`tokens`: what there is already, by its bytes: a merge that spells one of them makes no new token."""
        self._encoder, self._library = encoder, encoder.library
        self._handle = self._library.danlu_trainer_new(encoder.handle, str(folder).encode(), budget)
        self._check(-1 if not self._handle else 0)
        for data, token_id in tokens.items():
            self._check(self._library.danlu_trainer_token(self._handle, data, len(data), token_id))

    def add(self, texts: Iterable[str]) -> None:
        """Count the pieces of texts. Raises StageFailed when the disk or the memory is full."""
        for batch in _batches(texts):
            encoded = [text.encode("utf-8", "replace") for text in batch]
            n, lengths = len(encoded), np.array([len(data) for data in encoded], np.uint64)
            foreign = np.empty(n, np.uint8)
            places = (ctypes.c_char_p * n)(*encoded)
            self._check(
                self._library.danlu_trainer_add(
                    self._handle, places, lengths.ctypes.data, n, n_threads(), foreign.ctypes.data
                )
            )
            for i in np.flatnonzero(foreign):
                for piece in self._encoder.pieces_by_library(encoded[i].decode()):
                    self._check(self._library.danlu_trainer_add_piece(self._handle, piece, len(piece), 1))

    def learn(self, *, next_id: int, room: int, min_frequency: int) -> Learned:
        """Up to `room` new tokens, numbered from `next_id`. To be called once, after all texts."""
        n = self._check(self._library.danlu_trainer_learn(self._handle, next_id, room, min_frequency))
        merges, numbers = np.empty((n, 3), np.uint32), np.empty(4, np.uint64)
        self._library.danlu_trainer_result(self._handle, merges.ctypes.data, numbers.ctypes.data)
        return Learned(merges, *numbers.tolist())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.danlu_trainer_free(self._handle)
        self._handle = None

    def _check(self, result: int) -> int:
        if result < 0:
            raise StageFailed("training the tokenizer ran out of memory or disk", "lower max_memory, or free some room")
        return result


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def learn_in_python(
    words: Mapping[tuple[int, ...], int], tokens: dict[bytes, int], *, next_id: int, room: int, min_frequency: int
) -> list[tuple[int, int, int]]:
    """The same merges, slowly: for machines without a compiler, and to hold the compiled one against.

    `words`: pieces as ids, and how often each occurs. `tokens` by their bytes; new ones are added to it. Each merge
    goes through the words that hold its pair and no others.
    """
    spelled = {token_id: data for data, token_id in tokens.items()}
    pieces = [list(word) for word in words]
    counts = list(words.values())
    pairs: dict[tuple[int, int], int] = {}
    where: dict[tuple[int, int], set[int]] = {}

    def change(index: int, sign: int) -> None:
        for pair in pairwise(pieces[index]):
            pairs[pair] = pairs.get(pair, 0) + sign * counts[index]
            where.setdefault(pair, set()).add(index)

    for index in range(len(pieces)):
        change(index, 1)
    merges: list[tuple[int, int, int]] = []
    last = next_id + room
    while next_id < last and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < max(1, min_frequency):
            break
        joined = spelled[best[0]] + spelled[best[1]]
        if joined not in tokens:
            tokens[joined], spelled[next_id] = next_id, joined
            next_id += 1
        new = tokens[joined]
        merges.append((*best, new))
        for index in where.pop(best):
            change(index, -1)
            pieces[index] = _joined(pieces[index], best, new)
            change(index, 1)
        del pairs[best]
    return merges


def _joined(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """`pair` replaced by `new` from left to right."""
    out: list[int] = []
    for token in word:
        if out and (out[-1], token) == pair:
            out[-1] = new
        else:
            out.append(token)
    return out
