"""Bands: documents that might be alike meet in buckets, and the buckets lie in spill files.

A signature is 32 bands of 4 rows (minhash.py says why). The 4 rows of a band are folded into one key, and two
documents whose keys of some band are equal are candidates. One pass over the signatures writes, for every band that
is still to be done, one record a document:

    key (64 bits), rank (32 bits)          rank: the document's place in the order of ids

32 bands of 12 bytes are 384 bytes a document on disk, three quarters of its signature, and all sorting is of records
that lie together. Reading one band's records in ascending order gives bucket after bucket, each with its members in
the order of ids, however little memory there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.data.dedup.minhash import BANDS, ROWS
from danlu.data.dedup.native import address, library
from danlu.data.dedup.spill import Spill
from danlu.data.dedup.tables import BLOCK, Tables, records, without_units

WORDS = 3  # of a record: key high, key low, rank
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)


def band_keys(rows: NDArray[np.uint32], bands: Sequence[int], compiled: bool = True) -> NDArray[np.uint64]:
    """uint32 [N, 128] -> uint64 [bands, N]: equal rows of a band, equal keys.

    All bits of a key are even (files are ranges of the high ones). Chance collisions are sorted out by verification.
    """
    loaded = library() if compiled else None
    if loaded is not None:
        keys = np.empty((len(bands), len(rows)), dtype=np.uint64)
        rows, wanted = np.ascontiguousarray(rows), np.array(bands, dtype=np.int32)
        loaded.dedup_band_keys(address(rows), len(rows), address(wanted), len(wanted), address(keys))
        return keys
    keys = np.zeros((len(bands), len(rows)), dtype=np.uint64)
    for key, band in zip(keys, bands, strict=True):
        for column in rows[:, band * ROWS : (band + 1) * ROWS].T:
            key[:] = (key ^ (key >> np.uint64(29))) * _MULTIPLIERS[0] + column
    keys = (keys ^ (keys >> np.uint64(32))) * _MULTIPLIERS[1]
    return keys ^ (keys >> np.uint64(29))


def band_spill(work: Path, band: int, documents: int, memory_bytes: int) -> Spill:
    """Where the records of one band lie, or will lie."""
    return Spill(work, f"band-{band:02d}", WORDS, documents, memory_bytes)


def spill_bands(tables: Tables, rank: NDArray[np.uint32], bands: Sequence[int], work: Path, memory_bytes: int) -> None:
    """Write the records of these bands in one pass over the signatures. Documents without units have none.

    rank  uint32 [D], position -> rank
    """
    assert all(0 <= band < BANDS for band in bands)
    spills = [band_spill(work, band, len(tables), memory_bytes) for band in bands]
    # Small appends are slow: a pass collects as many rows of records as a quarter of the memory holds, at most 2^17.
    rows = max(1 << 10, min(1 << 17, memory_bytes // (4 * 20 * max(len(bands), 1))))
    waiting: list[list[NDArray[np.uint32]]] = [[] for _ in bands]
    count = 0
    for start, block in tables.blocks(min(BLOCK, rows)):
        keep = ~without_units(block)
        ranks = np.asarray(rank[start : start + len(block)])[keep]
        for list_, keys in zip(waiting, band_keys(block, bands), strict=True):
            list_.append(records(keys[keep], ranks))
        count += len(block)
        if count >= rows:
            _flush(spills, waiting)
            count = 0
    _flush(spills, waiting)
    for spill in spills:
        spill.commit()


def _flush(spills: list[Spill], waiting: list[list[NDArray[np.uint32]]]) -> None:
    for spill, list_ in zip(spills, waiting, strict=True):
        if list_:
            spill.add(np.concatenate(list_))
        list_.clear()
