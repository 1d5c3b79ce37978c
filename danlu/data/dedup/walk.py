"""The walk through buckets: who meets is compared, who is alike is joined.

Two forests grow over the documents (union-find, 4 bytes a document each): `near` joins what is alike enough to be
dropped, `loose` what is alike enough to belong on one side of a split. Members of a bucket come in the order of ids,
and a member is compared with those before it:

    among the first 24 of a bucket     with every one                        (small buckets: all pairs)
    after them                         with up to 24 leaders and with the one just before it

A leader is a member that was like no leader when it came. So a bucket of n members costs at most 25 n comparisons,
whether it holds 100,000 copies of one page (each meets the first leader and is done) or 100,000 different pages with
one common paragraph, where all pairs would be 5 * 10^9.

Two documents that are joined in `near` already are not compared again. That keeps the 31 bands after the first from
finding the same pairs once more, and it bounds what is written: an edge is written where it joins two trees, so all
bands together write fewer than two of those a document, and where it is in doubt (`Rules`). Which comparisons are
skipped depends on the bands before, so bands are walked in their order; the components that come out are those of all
verified pairs.

Documents of rank below `guarded` are another corpus, a validation set, a benchmark: they are not compared among
themselves. With `across` the others are not either, and only pairs between the two are found.

Two walkers give the same edges: the compiled one (cpp/dedup.cpp) and the one in Python below it, for reading and for
machines without a compiler.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import StageFailed
from danlu.data.dedup.minhash import PERMUTATIONS
from danlu.data.dedup.native import address, library
from danlu.data.dedup.tables import Tables

FEW = 24  # members of a bucket that are compared all with all; also how many leaders a bucket has
_SLICE = 1 << 12  # records fed to the compiled walker at once: its edges have room for 25 of each
_UNREADABLE = -(1 << 62)  # what the compiled walker answers where a row could not be read
EDGE_WORDS = 3  # of an edge: smaller rank or leader, rank, agreement


@dataclass(frozen=True)
class Rules:
    """What counts as alike: of 128 places of two signatures, how many must agree.

    Pairs from `need_doubt` to below `need_near` are not joined in `near`; they are written down, for somebody who looks
    at the texts. By default there are none.
    """

    need_near: int
    need_loose: int
    guarded: int = 0
    across: bool = False
    need_doubt: int = 1 << 30

    def __post_init__(self) -> None:
        assert 0 < self.need_loose <= min(self.need_near, self.need_doubt)


class Walker(Protocol):
    """Grows both forests (uint32 [D] by rank) from records; `compared` counts comparisons of signatures."""

    near: NDArray[np.uint32]
    loose: NDArray[np.uint32]

    @property
    def compared(self) -> int: ...

    def feed(self, records: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The next records of a band, uint32 [N, 3] ascending; returns the new edges, uint32 [E, 3].

        Raises StageFailed when the records are not in ascending order.
        """

    def end_of_band(self) -> None: ...

    def replay(self, edges: NDArray[np.uint32]) -> None:
        """Join along edges found earlier."""

    def agreements(self, a: NDArray[np.uint32], b: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """In how many of 128 places the signatures of ranks a[i] and b[i] agree."""


def walker(
    tables: Tables,
    order: NDArray[np.uint32],
    near: NDArray[np.uint32],
    loose: NDArray[np.uint32],
    rules: Rules,
) -> Walker:
    """The compiled walker, or the one in Python. `near` and `loose` are arange(D) for a walk from the beginning."""
    return (CompiledWalker if library() is not None else PythonWalker)(tables, order, near, loose, rules)


class CompiledWalker:
    def __init__(
        self,
        tables: Tables,
        order: NDArray[np.uint32],
        near: NDArray[np.uint32],
        loose: NDArray[np.uint32],
        rules: Rules,
    ) -> None:
        loaded = library()
        assert loaded is not None
        self._library: Any = loaded
        self.near, self.loose, self.rules = near, loose, rules
        self._alive = (tables, order)  # their memory is used as long as this object lives
        pointers = (ctypes.c_void_p * max(len(tables.arrays), 1))()
        for table, array in enumerate(tables.arrays):
            pointers[table] = None if array is None else address(array)
        counts, files = np.array(tables.counts, dtype=np.int64), np.array(tables.files, dtype=np.int32)
        self._handle = loaded.dedup_walk_new(
            pointers, address(counts), address(files), len(tables.arrays), address(order), address(near),
            address(loose), rules.need_near, rules.need_loose, rules.need_doubt, rules.guarded, int(rules.across), FEW,
        )  # fmt: skip
        self._edges = np.empty((_SLICE * (FEW + 1), EDGE_WORDS), dtype=np.uint32)

    @property
    def compared(self) -> int:
        return int(self._library.dedup_walk_compared(self._handle))

    def feed(self, records: NDArray[np.uint32]) -> NDArray[np.uint32]:
        found = [np.empty((0, EDGE_WORDS), dtype=np.uint32)]
        for begin in range(0, len(records), _SLICE):
            part = np.ascontiguousarray(records[begin : begin + _SLICE])
            edges = self._library.dedup_walk_feed(self._handle, address(part), len(part), address(self._edges))
            if edges == _UNREADABLE:
                raise _shorter()
            if edges < 0:
                raise _out_of_order()
            if edges:
                found.append(self._edges[:edges].copy())
        return np.concatenate(found)

    def end_of_band(self) -> None:
        self._library.dedup_walk_end_of_band(self._handle)

    def replay(self, edges: NDArray[np.uint32]) -> None:
        edges = np.ascontiguousarray(edges)
        self._library.dedup_replay(
            address(edges), len(edges), address(self.near), address(self.loose), self.rules.need_near
        )

    def agreements(self, a: NDArray[np.uint32], b: NDArray[np.uint32]) -> NDArray[np.uint8]:
        a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
        out = np.empty(len(a), dtype=np.uint8)
        if not self._library.dedup_walk_agreements(self._handle, address(a), address(b), len(a), address(out)):
            raise _shorter()
        return out

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.dedup_walk_free(self._handle)
            self._handle = None


class PythonWalker:
    def __init__(
        self,
        tables: Tables,
        order: NDArray[np.uint32],
        near: NDArray[np.uint32],
        loose: NDArray[np.uint32],
        rules: Rules,
    ) -> None:
        self.near, self.loose, self.rules = near, loose, rules
        self.compared = 0
        self._tables, self._order = tables, order
        self._last: tuple[int, int, int] | None = None  # the last record: key high, key low, rank
        self._count = 0
        self._early: list[int] = []
        self._leaders: list[int] = []
        self._edges: list[tuple[int, int, int]] = []

    def feed(self, records: NDArray[np.uint32]) -> NDArray[np.uint32]:
        self._edges = []
        for high, low, rank in records.tolist():
            if self._last is not None and (high, low, rank) <= self._last:
                raise _out_of_order()
            if self._last is None or (high, low) != self._last[:2]:
                self._count, self._early, self._leaders = 0, [], []
            previous = self._last[2] if self._last is not None else 0
            self._add(rank, previous)
            self._last = (high, low, rank)
        return np.array(self._edges, dtype=np.uint32).reshape(-1, EDGE_WORDS)

    def _add(self, rank: int, previous: int) -> None:
        if self._count < FEW:
            for other in self._early:
                self._look(other, rank)
            led = any(not self._idle(leader, rank) and self._joined(leader, rank) for leader in self._leaders)
            self._early.append(rank)
        else:
            led = any(self._look(leader, rank) for leader in self._leaders) or self._look(previous, rank)
        if not led and len(self._leaders) < FEW:
            self._leaders.append(rank)
        self._count += 1

    def _look(self, other: int, rank: int) -> bool:
        """Compare two members; True when they are in one near cluster afterwards."""
        if self._idle(other, rank):
            return False
        if self._joined(other, rank):
            return True
        same = self._agreement(other, rank)
        if same < self.rules.need_loose:
            return False
        joined = same >= self.rules.need_near and unite(self.near, other, rank)
        tied = unite(self.loose, other, rank)
        if joined or tied or self.rules.need_doubt <= same < self.rules.need_near:
            self._edges.append((other, rank, same))
        return joined

    def _idle(self, a: int, b: int) -> bool:
        one, two = a < self.rules.guarded, b < self.rules.guarded
        return (one and two) or (self.rules.across and not one and not two)

    def _joined(self, a: int, b: int) -> bool:
        return find(self.near, a) == find(self.near, b)

    def _agreement(self, a: int, b: int) -> int:
        self.compared += 1
        one, two = (self._tables.row(int(self._order[rank])) for rank in (a, b))
        return int(np.count_nonzero(one == two))

    def end_of_band(self) -> None:
        self._last = None

    def replay(self, edges: NDArray[np.uint32]) -> None:
        for i, j, same in edges.tolist():
            if same >= self.rules.need_near:
                unite(self.near, i, j)
            unite(self.loose, i, j)

    def agreements(self, a: NDArray[np.uint32], b: NDArray[np.uint32]) -> NDArray[np.uint8]:
        pairs = zip(a.tolist(), b.tolist(), strict=True)
        return np.fromiter((self._agreement(i, j) for i, j in pairs), dtype=np.uint8, count=len(a))


assert PERMUTATIONS < 256  # agreements fit into a byte


def find(parent: NDArray[np.uint32], i: int) -> int:
    """The root of i."""
    while (above := int(parent[i])) != i:
        parent[i] = parent[above]  # halve the path on the way up
        i = int(parent[i])
    return i


def unite(parent: NDArray[np.uint32], i: int, j: int) -> bool:
    """Join the trees of i and j; False where they were one already."""
    a, b = find(parent, i), find(parent, j)
    if a != b:
        parent[max(a, b)] = min(a, b)  # the smaller is the root, so the root is the smallest of all
    return a != b


def _shorter() -> StageFailed:
    return StageFailed("a file of signatures became shorter while it was read", "build it again")


def _out_of_order() -> StageFailed:
    return StageFailed("the records of a band are not in ascending order", "run again: they are built anew")
