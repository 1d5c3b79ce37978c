"""Rows into an order that was decided, when they do not fit into memory.

    stretch    a run of places of the output that fits into memory                                     stretches
    a piece    its rows by place, a batch for each stretch that it has rows of, in one Arrow file      scatter
    in order   stretch by stretch, the batches of all pieces, sorted by place and handed on            in_order

Every row is written once and read once. The file of a piece depends on the piece and the places alone, so pieces are
made in any order, by any worker, and a run that was killed makes only those that are missing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from danlu.core.artifact import Artifact
from danlu.core.stage import StageRun
from danlu.data.document import SCHEMA
from danlu.data.mixing.catalogue import DUPLICATE, HELD_OUT, TRAIN, Catalogue
from danlu.data.mixing.plan import Placement
from danlu.data.rewriting import Outlets, batches, tasks_of, work_through

STRETCH_BYTES = 128_000_000  # of text
_MOST = 512  # stretches: batches of a piece shall not become too small to be worth reading
_REASON = {HELD_OUT: "held_out", DUPLICATE: "duplicate:id"}
_SPILL = SCHEMA.append(pa.field("place", pa.int64()))


def scatter_rows(
    catalogue: Catalogue, placement: Placement, corpora: Mapping[str, Artifact], run: StageRun
) -> tuple[list[Path], NDArray[np.int32]]:
    """The second walk: (folders of the pieces, the stretch of each place).

    A folder holds scattered.arrow, the rows that go somewhere, and rejected-*.parquet, those that two corpora share.
    """
    stretch_of = stretches(placement.sizes(catalogue))
    names = sorted(set(catalogue.groups))
    number = {name: i for i, name in enumerate(names)}
    arrays: dict[str, NDArray[Any]] = {
        "documents": placement.documents,
        "places": placement.places,
        "stretches": stretch_of,
        "fate": catalogue.fate,
        "groups": np.array([number[name] for name in catalogue.groups], dtype=np.int32),
    }
    for name, array in arrays.items():
        np.save(run.work / f"{name}.npy", array)
    paths = {name: artifact.path for name, artifact in corpora.items()}
    tasks = tasks_of(paths, ["train"], plan=str(run.work), names=names)
    return work_through("danlu.data.mixing.scatter:scatter_piece", tasks, run, "scattered"), stretch_of


def scatter_piece(task: dict[str, Any], folder: Path) -> None:
    """The rows of a piece under the places that the plan gives them."""
    plan = Path(task["plan"])
    documents, places, stretch_of, fate, groups = (
        np.load(plan / f"{name}.npy", mmap_mode="r") for name in ("documents", "places", "stretches", "fate", "groups")
    )
    with Outlets(folder) as out:

        def placed() -> Iterator[tuple[dict[str, Any], int]]:
            number = task["first"]
            done = int(np.searchsorted(documents, number))
            for _, rows in batches(task):
                for row in rows:
                    if fate[number] != TRAIN:
                        out.put("rejected", {**row, "reason": _REASON[int(fate[number])]})
                    end = done
                    while end < len(documents) and documents[end] == number:
                        end += 1
                    for nth, place in enumerate(places[done:end].tolist(), start=1):
                        yield _copy(row, task["names"][groups[number]], nth), place
                    number, done = number + 1, end

        scatter(placed(), stretch_of, folder / "scattered.arrow")


def _copy(row: dict[str, Any], group: str, nth: int) -> dict[str, Any]:
    meta = json.loads(row["meta"] or "{}") | {"mixture": group}
    if nth > 1:
        meta |= {"copy_of": row["id"], "reading": nth}
    text = json.dumps(meta, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return {**row, "id": row["id"] if nth == 1 else f"{row['id']}~{nth}", "meta": text}


def stretches(sizes: NDArray[np.int64], stretch_bytes: int = STRETCH_BYTES) -> NDArray[np.int32]:
    """int32 [R]: the stretch of each place. `sizes` [R]: bytes of text at each place."""
    before = np.cumsum(sizes) - sizes
    stretch_bytes = max(stretch_bytes, -(-int(sizes.sum()) // _MOST), 1)
    return (before // stretch_bytes).astype(np.int32)


def scatter(rows: Iterable[tuple[dict[str, Any], int]], stretch_of: NDArray[np.int32], file: Path) -> None:
    """Write rows with their places into `file`. All of them are in memory: they are one piece."""
    ordered = sorted(rows, key=lambda one: one[1])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(file, _SPILL, options=options) as out:
        for _, part in itertools.groupby(ordered, key=lambda one: stretch_of[one[1]]):
            out.write_batch(pa.RecordBatch.from_pylist([{**row, "place": place} for row, place in part], schema=_SPILL))


def in_order(files: Sequence[Path], stretch_of: NDArray[np.int32]) -> Iterator[dict[str, Any]]:
    """All rows of these files, by place."""
    held = [_stretches_in(file, stretch_of) for file in files]
    for stretch in np.unique(stretch_of).tolist():
        batches = []
        for file, mine in zip(files, held, strict=True):
            at = int(np.searchsorted(mine, stretch))
            if at < len(mine) and mine[at] == stretch:
                with pa.ipc.open_file(file) as parts:
                    batches.append(parts.get_batch(at))
        table = pa.Table.from_batches(batches, schema=_SPILL).sort_by("place").drop_columns(["place"])
        for batch in table.to_batches(max_chunksize=1_024):
            yield from batch.to_pylist()


def _stretches_in(file: Path, stretch_of: NDArray[np.int32]) -> NDArray[np.int32]:
    """The stretch of each batch of a file, ascending."""
    with pa.ipc.open_file(file) as parts:
        firsts = [parts.get_batch(i)["place"][0].as_py() for i in range(parts.num_record_batches)]
    return stretch_of[np.array(firsts, dtype=np.int64)]
