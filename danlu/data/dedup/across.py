"""Duplicates across corpora: which documents of one say what a document of another says.

    train against validation      nothing that is held out may have been seen
    a crawl against a corpus      what is new in it
    a corpus against benchmarks   whose signatures are just another table

Only pairs between the two are looked at: `others` are not compared among themselves, nor are the documents of the
corpus. So a document is named here only when it *itself* is like one of the others, not when it is like a third that
is. To remove duplicates inside a corpus and against others at once, `clusters.near_duplicates` takes the others as
its `guarded` documents: they are never dropped and drop what is like them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.data.dedup.clusters import agreements_for, run_walk
from danlu.data.dedup.minhash import PERMUTATIONS
from danlu.data.dedup.spill import read_spill
from danlu.data.dedup.tables import Tables
from danlu.data.dedup.walk import EDGE_WORDS, Rules


@dataclass(frozen=True)
class Matches:
    """Documents of the corpus that are like one of the others, in the order of their positions.

    documents   int64 [M], positions in the corpus
    others      int64 [M], position of a document they are like: the most similar one of those that were compared
    similarity  float32 [M], estimated Jaccard similarity of the two
    """

    documents: NDArray[np.int64]
    others: NDArray[np.int64]
    similarity: NDArray[np.float32]


def find_across(
    signatures: Sequence[NDArray[np.uint32] | Path],
    keys: NDArray[np.uint64],
    others: Sequence[NDArray[np.uint32] | Path],
    other_keys: NDArray[np.uint64],
    work: Path,
    *,
    threshold: float = 0.7,
    memory_bytes: int = 1 << 30,
) -> Matches:
    """Documents of `signatures` that are like a document of `others`. Arguments as in `clusters.near_duplicates`."""
    guarded = len(Tables(others))
    tables = Tables([*others, *signatures])
    need = agreements_for(threshold)
    rules = Rules(need_near=need, need_loose=need, guarded=guarded, across=True)
    both = np.concatenate([other_keys, keys])
    order, _, files = run_walk(tables, both, work, rules, memory_bytes)
    edges = np.concatenate([piece for file in files for piece in read_spill(file, EDGE_WORDS, rows=1 << 30)] or [_NONE])
    # Of every edge one end is guarded, and guarded ranks are the smaller ones.
    theirs, mine = edges[:, :2].min(axis=1), edges[:, :2].max(axis=1)
    best = np.lexsort((theirs, -edges[:, 2].astype(np.int64), mine))  # by document, then the most similar, then its id
    mine, theirs, same = mine[best], theirs[best], edges[best, 2]
    first = np.append(True, mine[1:] != mine[:-1]) if len(mine) else np.empty(0, dtype=bool)
    documents = order[mine[first]].astype(np.int64) - guarded
    by_position = np.argsort(documents)
    return Matches(
        documents[by_position],
        order[theirs[first]].astype(np.int64)[by_position],
        (same[first] / np.float32(PERMUTATIONS)).astype(np.float32)[by_position],
    )


_NONE = np.empty((0, EDGE_WORDS), dtype=np.uint32)
