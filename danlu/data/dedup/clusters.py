"""Near-duplicates of a corpus of any size: from signatures to clusters, in bounded memory, to be continued when killed.

    signatures [D, 128] --spill_bands--> 32 bands of records --walk, band by band--> edges --> two forests --> roots
                                                                     pairs in doubt --texts--> verify -^

One run answers two questions, because one set of bands serves both:

    near    which documents say the same as one before them and are dropped         (similarity from 0.7)
    loose   which documents must be on one side of a split                          (similarity from 0.5)

The first is exact where the texts can be had: pairs whose estimate is near the threshold are looked at again
(`verify`). The second goes by the estimate.

The representative of a cluster is its member with the smallest id. Nothing depends on the order documents were read
in, on the memory allowed, on how many files there were, or on where an earlier run was killed.

Memory: what `memory_bytes` says, and one byte a document. Arrays of 4 bytes a document (two forests, the order of ids,
the answer) lie in memory where they are small beside that, else in files of `work` that are mapped. Disk: 384 bytes a
document while it runs. In `work`:

    walk.json         what this work belongs to; other inputs begin anew
    band-BB-*.spill   records of bands that are still to be walked
    edges-BB.spill    a band that is done: (rank, rank, agreement), renamed to this when complete

A killed run replays the edges it finds and goes on with the next band. A damaged file of either kind is built again.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import UserError
from danlu.data.dedup.bands import band_spill, spill_bands
from danlu.data.dedup.minhash import BANDS, PERMUTATIONS
from danlu.data.dedup.native import flatten
from danlu.data.dedup.spill import DamagedSpill, SpillWriter, read_spill
from danlu.data.dedup.tables import Tables, number
from danlu.data.dedup.verify import DEVIATIONS, Shingles, decide
from danlu.data.dedup.walk import EDGE_WORDS, Rules, Walker, walker

VERSION = 2  # of the walk: raise it when the same signatures would give other edges
_SMALLEST = 16 << 20  # bytes for sorting, whatever else is said
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Clusters:
    """Who belongs together, by position of the documents in the tables given (not by rank).

    near        uint32 [D], position of the near cluster's member with the smallest id; itself for those that stay
    loose       uint32 [D], the same for the looser clusters; whole near clusters lie inside them
    agreement   uint8 [D], of 128 places, how many agree between a document and its near representative
    order       uint32 [D], rank -> position: the documents in the order of their ids, guarded ones first
    guarded     so many documents at the front of the tables are never dropped
    compared    pairs of signatures looked at in this run (bands taken over from an earlier one are not in it)
    verified    pairs whose texts were compared
    """

    near: NDArray[np.uint32]
    loose: NDArray[np.uint32]
    agreement: NDArray[np.uint8]
    order: NDArray[np.uint32]
    guarded: int = 0
    compared: int = 0
    verified: int = 0

    @property
    def dropped(self) -> NDArray[np.bool_]:
        """bool [D]: near-duplicates of a document that stays."""
        positions = np.arange(len(self.near), dtype=np.uint32)
        return (self.near != positions) & (positions >= self.guarded)

    @property
    def similarity(self) -> NDArray[np.float32]:
        """float32 [D]: estimated Jaccard similarity of each document with its near representative."""
        return self.agreement.astype(np.float32) / np.float32(PERMUTATIONS)

    def sizes(self) -> NDArray[np.int64]:
        """int64 [D]: members of each document's near cluster, for up-sampling by how often something was found."""
        return np.bincount(self.near, minlength=len(self.near))[self.near]


def near_duplicates(
    signatures: Sequence[NDArray[np.uint32] | Path],
    keys: NDArray[np.uint64],
    work: Path,
    *,
    near: float = 0.7,
    loose: float = 0.5,
    guarded: int = 0,
    memory_bytes: int = 1 << 30,
    shingles: Shingles | None = None,
) -> Clusters:
    """Find near-duplicates among all documents of these tables.

    signatures    tables of uint32 [D_i, 128] or files of them (`danlu.data.dedup.tables`)
    keys          uint64 [D], of the ids of all documents in the order of the tables (`tables.id_keys`)
    work          a folder for spill files; what an earlier try left there is used where it belongs to the same inputs
    near, loose   similarity from which documents are joined; near above 1 joins none
    guarded       the first so many documents are not looked through themselves and are never dropped
    memory_bytes  for everything but the signatures in memory, if they are
    shingles      gives those of documents in doubt, so that `near` is exact; without it the estimate decides

    Raises UserError when thresholds or shapes do not fit.
    """
    tables = Tables(signatures)
    _check(tables, keys, guarded)
    if loose > near:
        raise UserError(f"loose is {loose}, near is {near}", "loose must not exceed near")
    exact = shingles is not None and near <= 1
    rules = _rules(near, loose, guarded, DEVIATIONS if exact else 0.0)
    order, walk, edges = run_walk(tables, keys, work, rules, memory_bytes)
    verified = 0
    if exact:
        assert shingles is not None
        verified = decide(walk.near, order, edges, shingles, near, rules, work, memory_bytes)
    flatten(walk.near)
    flatten(walk.loose)
    return replace(_by_position(order, walk, guarded, work, memory_bytes), verified=verified)


def _rules(near: float, loose: float, guarded: int, deviations: float) -> Rules:
    """Thresholds in places that agree; in doubt is what is within so many standard deviations of the estimate."""
    need_loose = agreements_for(loose)
    if not deviations:
        return Rules(agreements_for(near), need_loose, guarded)
    spread = deviations * math.sqrt(near * (1 - near) / PERMUTATIONS)
    need_near = agreements_for(near + spread)
    return Rules(need_near, need_loose, guarded, need_doubt=max(need_loose, agreements_for(max(near - spread, loose))))


def agreements_for(similarity: float) -> int:
    """The smallest number of agreeing places (of 128) whose share reaches `similarity`.

    >>> agreements_for(0.7), agreements_for(0.5), agreements_for(1.5)
    (90, 64, 192)
    """
    if not similarity > 0:
        raise UserError(f"a similarity of {similarity} is reached by any two documents", "it must be above 0")
    return max(1, math.ceil(similarity * PERMUTATIONS - 1e-9))


def run_walk(
    tables: Tables, keys: NDArray[np.uint64], work: Path, rules: Rules, memory_bytes: int, tries: int = 3
) -> tuple[NDArray[np.uint32], Walker, list[Path]]:
    """Walk all bands, or those an earlier try left; returns (order, walker, files of edges).

    Raises DamagedSpill when files come out damaged again and again: that is the disk.
    """
    work.mkdir(parents=True, exist_ok=True)
    count = len(tables)
    order = number(keys, work, memory_bytes, rules.guarded)
    _claim(work, tables, order, rules)
    left = max(memory_bytes // 2, _SMALLEST)
    near, loose = (_room(work / f"forest-{name}.u32", count, memory_bytes) for name in ("near", "loose"))
    for forest in (near, loose):
        forest[:] = np.arange(count, dtype=np.uint32)
    walk = walker(tables, order, near, loose, rules)
    edges = [work / f"edges-{band:02d}.spill" for band in range(BANDS)]
    for band in range(BANDS):
        try:
            if edges[band].exists():
                for piece in read_spill(edges[band], EDGE_WORDS, rows=1 << 30):
                    walk.replay(piece)
                continue
        except DamagedSpill:
            edges[band].unlink()
        try:
            _walk_band(tables, order, walk, band, edges, work, left)
        except DamagedSpill:  # this try has spoilt the forests: begin again from the edges that are there
            band_spill(work, band, count, left).remove()
            if tries == 1:
                raise
            return run_walk(tables, keys, work, rules, memory_bytes, tries - 1)
        band_spill(work, band, count, left).remove()
    return order, walk, edges


def _walk_band(
    tables: Tables, order: NDArray[np.uint32], walk: Walker, band: int, edges: list[Path], work: Path, left: int
) -> None:
    spill = band_spill(work, band, len(tables), left)
    if not spill.whole():
        missing = [
            other
            for other in range(band, BANDS)
            if not edges[other].exists() and not band_spill(work, other, len(tables), left).whole()
        ]
        rank = _room(work / "rank.u32", len(order), left)
        for start in range(0, len(order), _CHUNK):
            piece = order[start : start + _CHUNK]
            rank[piece] = np.arange(start, start + len(piece), dtype=np.uint32)
        spill_bands(tables, rank, missing, work, left)
    writer = SpillWriter(edges[band], EDGE_WORDS)
    for records in spill.ascending():
        writer.write(walk.feed(records))
    walk.end_of_band()
    writer.commit()


def _room(path: Path, count: int, memory_bytes: int) -> NDArray[np.uint32]:
    """uint32 [count] in memory where it takes little of what is allowed, else in a file that the system can page."""
    if count * 4 * 8 <= max(memory_bytes, 1 << 16):
        return np.empty(count, dtype=np.uint32)
    return np.memmap(path, dtype=np.uint32, mode="w+", shape=(count,))


def _check(tables: Tables, keys: NDArray[np.uint64], guarded: int) -> None:
    if len(keys) != len(tables):
        raise UserError(f"{len(keys)} ids for {len(tables)} signatures", "every signature needs the id of its document")
    if not 0 <= guarded <= len(tables):
        raise UserError(f"guarded is {guarded} of {len(tables)} documents", "it counts documents at the front")


def _claim(work: Path, tables: Tables, order: NDArray[np.uint32], rules: Rules) -> None:
    """Clear away what belongs to other inputs, and say what the files here belong to."""
    crc = 0
    for start in range(0, len(order), _CHUNK):
        crc = zlib.crc32(np.ascontiguousarray(order[start : start + _CHUNK]).data, crc)
    ours = {
        "version": VERSION,
        "signatures": tables.fingerprint(),
        "order": f"{crc:08x}",
        "rules": [rules.need_near, rules.need_loose, rules.guarded, rules.across, rules.need_doubt],
    }
    note = work / "walk.json"
    try:
        if json.loads(note.read_text()) == ours:
            return
    except (OSError, ValueError):
        pass
    for pattern in ("band-*.spill*", "edges-*.spill*"):
        for path in work.glob(pattern):
            path.unlink()
    part = note.with_suffix(".part")
    part.write_text(json.dumps(ours))
    os.replace(part, note)


def _by_position(order: NDArray[np.uint32], walk: Walker, guarded: int, work: Path, memory_bytes: int) -> Clusters:
    """From ranks to positions, a piece at a time; the forests are used up by it."""
    count = len(order)
    agreement = np.full(count, PERMUTATIONS, dtype=np.uint8)
    out = [_room(work / f"{name}.u32", count, memory_bytes) for name in ("near", "loose")]
    for start in range(0, count, _CHUNK):
        positions = order[start : start + _CHUNK]
        roots = walk.near[start : start + _CHUNK]
        for found, forest in zip(out, (walk.near, walk.loose), strict=True):
            found[positions] = order[forest[start : start + _CHUNK]]
        ranks = np.arange(start, start + len(roots), dtype=np.uint32)
        moved = roots != ranks
        agreement[positions[moved]] = walk.agreements(ranks[moved], roots[moved])
    return Clusters(out[0], out[1], agreement, order, guarded, walk.compared)
