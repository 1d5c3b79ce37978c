"""Rows into an order that was decided, when they do not fit into memory.

    rows as they are stored  ->  one spill file for each stretch of the output  ->  each read, sorted, handed on

Every row is written once and read once; memory holds one stretch and 64 MB of rows on their way. A row that is wanted
several times is spilled once a time, each with its own place.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from danlu.data.document import SCHEMA

STRETCH_BYTES = 128_000_000  # of text in one spill file
_SPILL = SCHEMA.append(pa.field("place", pa.int64()))
_PENDING_BYTES = 64_000_000
_MOST_FILES = 512  # open at once


class Scatter:
    """`put` rows with their places in any order, then read them `in_order`."""

    def __init__(self, work: Path, sizes: NDArray[np.int64], stretch_bytes: int = STRETCH_BYTES) -> None:
        """`sizes` [R]: bytes of text at each place of the output; they decide how many spill files `work` gets."""
        before = np.cumsum(sizes) - sizes
        stretch_bytes = max(stretch_bytes, -(-int(sizes.sum()) // _MOST_FILES), 1)
        self._stretch_of = (before // stretch_bytes).astype(np.int32)
        self._work = work
        self._pending: dict[int, list[dict[str, Any]]] = {}
        self._pending_bytes = 0
        self._writers: dict[int, pq.ParquetWriter] = {}

    def put(self, row: dict[str, Any], place: int) -> None:
        """One row; `place` counts from 0 below R."""
        self._pending.setdefault(int(self._stretch_of[place]), []).append({**row, "place": place})
        self._pending_bytes += len(row["text"]) * 2 + 500
        if self._pending_bytes >= _PENDING_BYTES:
            self._flush()

    def _flush(self) -> None:
        for stretch, rows in self._pending.items():
            if stretch not in self._writers:
                self._writers[stretch] = pq.ParquetWriter(self._path(stretch), _SPILL, compression="zstd")
            self._writers[stretch].write_table(pa.Table.from_pylist(rows, schema=_SPILL))
        self._pending, self._pending_bytes = {}, 0

    def in_order(self) -> Iterator[dict[str, Any]]:
        """All rows, by place; each spill file goes when it has been read."""
        self._flush()
        for writer in self._writers.values():
            writer.close()
        for stretch in sorted(self._writers):
            table = pq.read_table(self._path(stretch)).sort_by("place").drop_columns(["place"])
            for batch in table.to_batches(max_chunksize=1_024):
                yield from batch.to_pylist()
            self._path(stretch).unlink()

    def _path(self, stretch: int) -> Path:
        return self._work / f"stretch-{stretch:04d}.parquet"
