"""The walk of `data.select`: three passes over a measured corpus, so that memory holds numbers and not texts.

    pass 1    hashes, sizes and scores       judged; about 60 bytes a document stay in memory        here
    pass 2    signatures of what is left     in the order of ids: duplicates, groups, split          here
    pass 3    the rows                       each to its destination, in the order of reading        destinations

Nothing is random and nothing but the order of the rows depends on the order of reading: the same measured corpus gives
the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import Interrupted, UserError
from danlu.core.stage import StageRun
from danlu.data.dedup import minhash
from danlu.data.destinations import deliver
from danlu.data.judge import Judge
from danlu.data.measured import SIGNATURE_BYTES, read_measured
from danlu.data.report import finish
from danlu.data.select import SelectConfig
from danlu.data.split import hold_out

TRAIN, VALIDATION, NOT_DRAWN, EXACT, NEAR, REFUSED = range(6)  # where a document goes


def run_selection(config: SelectConfig, run: StageRun, measured: Path) -> dict[str, Any]:
    """Fill `run.out` with the corpus; returns the metrics. Raises UserError when nothing would be left."""
    judge = Judge(config)
    index = read_index(measured, judge, run)
    fate = decide(config, index, measured, run)
    books = deliver(run, measured, index, fate, judge)
    return finish(run, measured, books, fate)


# ---- pass 1 ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Index:
    """What is remembered of each row of the measured corpus: parallel arrays in the order of reading."""

    ids: NDArray[np.uint64]  # [D] the 16 hex digits as a number: the same order
    text_hashes: NDArray[np.void]  # [D] 16 bytes
    origins: NDArray[np.uint64]  # [D]
    parts: NDArray[np.int32]  # [D]
    draws: NDArray[np.float64]  # [D]
    sizes: NDArray[np.int64]  # [D] bytes
    codes: NDArray[np.int16]  # [D] reasons of the judge, 0 to keep

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, row: int) -> str:
        """The id as it is written in the corpus."""
        return f"{int(self.ids[row]):016x}"


def read_index(measured: Path, judge: Judge, run: StageRun) -> Index:
    """Judge every row and remember its hashes."""
    columns = ["id", "text_hash", "origin", "part", "draw", "size"]
    chunks: list[tuple[NDArray[Any], ...]] = []
    for batch in read_measured(measured, [*columns, *judge.columns]):
        stop_if_asked(run)
        chunks.append(
            (
                _numbers(batch["id"]),
                np.frombuffer(batch["text_hash"].buffers()[1], dtype="V16")[batch["text_hash"].offset :][: len(batch)],
                _numbers(batch["origin"]),
                batch["part"].to_numpy(),
                batch["draw"].to_numpy(),
                batch["size"].to_numpy(),
                judge.codes(batch),
            )
        )
    if not chunks:
        raise UserError("there is no text in the sources", "the files are empty")
    return Index(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))


def _numbers(column: Any) -> NDArray[np.uint64]:
    """Ids of 16 hex digits as numbers."""
    digits = "".join(column.to_pylist())
    return np.frombuffer(bytes.fromhex(digits), dtype=">u8").astype(np.uint64)


# ---- pass 2 ----------------------------------------------------------------------------------------------------


@dataclass
class Fate:
    """What becomes of each row of the index, in the order of reading."""

    where: NDArray[np.int8]  # [D] TRAIN, VALIDATION, ...
    kept_instead: dict[int, tuple[str, float]] = field(default_factory=dict)  # duplicate -> (id kept, similarity)
    near_clusters: int = 0
    groups: int = 0
    largest_group: int = 0


def decide(config: SelectConfig, index: Index, measured: Path, run: StageRun) -> Fate:
    """Sample, duplicates and split. From here on documents are in the order of their ids."""
    good = index.codes == 0
    border = sample_border(index.draws[good], index.sizes[good], config.max_documents, config.max_bytes)
    drawn = index.draws < border
    where = np.where(drawn, np.where(good, TRAIN, REFUSED), NOT_DRAWN).astype(np.int8)
    fate = Fate(where)
    rows = np.flatnonzero(good & drawn)
    rows = rows[np.lexsort((rows, index.ids[rows]))]
    rows = _drop_exact(index, rows, fate)  # [K]
    signatures, empty = _signatures(measured, index, rows, run)
    pairs, similarity = minhash.similar_pairs(signatures, empty, config.split_similarity)

    is_near = similarity >= (config.near_duplicates if config.near_duplicates < 1 else 2)
    root = minhash.clusters(len(rows), pairs[is_near])
    dropped = root != np.arange(len(rows))
    fate.near_clusters = len(np.unique(root[dropped]))
    for i in np.flatnonzero(dropped).tolist():
        agreement = float((signatures[i] == signatures[root[i]]).mean())
        where[rows[i]] = NEAR
        fate.kept_instead[int(rows[i])] = (index.name(rows[root[i]]), round(agreement, 3))

    rest = rows[~dropped]  # [R]
    renumbered = np.cumsum(~dropped) - 1
    similar = renumbered[pairs[~dropped[pairs].any(axis=1)]]
    groups = minhash.clusters(len(rest), np.concatenate([similar, _same_origin(index, rest)]))
    names = [index.name(row) for row in rest.tolist()]
    held_out = hold_out(names, groups, index.sizes[rest], index.parts[rest].tolist(), config.validation_share)
    where[rest[held_out]] = VALIDATION
    _, members = np.unique(groups, return_counts=True)
    fate.groups, fate.largest_group = len(members), int(members.max(initial=0))
    return fate


def sample_border(
    draws: NDArray[np.float64], sizes: NDArray[np.int64], max_documents: int | None, max_bytes: int | None
) -> float:
    """The draw from which documents are left out: those below it are as many as the limits allow.

    The documents are taken in the order of their draws up to the first that does not fit, so a larger limit gives the
    same documents and more.
    """
    order = np.argsort(draws, kind="stable")
    fits = np.ones(len(draws), dtype=bool)
    if max_documents is not None:
        fits[max_documents:] = False
    if max_bytes is not None:
        fits &= np.cumsum(sizes[order]) <= max_bytes
    return 1.0 if fits.all() else float(draws[order[int(np.argmin(fits))]])


def _drop_exact(index: Index, rows: NDArray[np.int64], fate: Fate) -> NDArray[np.int64]:
    """Mark all but the first of equal texts; returns the rows of the first ones, still in order."""
    _, first, group = np.unique(index.text_hashes[rows], return_index=True, return_inverse=True)
    kept = first[group]  # position of the first of my kind: np.unique finds the first occurrence
    copies = np.flatnonzero(kept != np.arange(len(rows)))
    fate.where[rows[copies]] = EXACT
    for i in copies.tolist():
        fate.kept_instead[int(rows[i])] = (index.name(rows[kept[i]]), 1.0)
    return np.delete(rows, copies)


def _signatures(
    measured: Path, index: Index, rows: NDArray[np.int64], run: StageRun
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """The signatures of these rows, in their order, in a file that the system pages in and out: uint32 [K, 128]."""
    width = SIGNATURE_BYTES // 4
    shape = (max(len(rows), 1), width)
    signatures = np.memmap(run.work / "signatures.u32", dtype=np.uint32, mode="w+", shape=shape)
    empty = np.ones(len(rows), dtype=bool)
    rank = np.full(len(index), -1, dtype=np.int64)
    rank[rows] = np.arange(len(rows))
    start = 0
    for batch in read_measured(measured, ["signature"]):
        stop_if_asked(run)
        column = batch["signature"]
        present = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        place = rank[start : start + len(batch)][present]
        values = np.frombuffer(column.buffers()[1], dtype=np.uint32).reshape(-1, width)[column.offset :][present]
        signatures[place[place >= 0]] = values[place >= 0]
        empty[place[place >= 0]] = False
        start += len(batch)
    return signatures[: len(rows)], empty


def _same_origin(index: Index, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of positions in `rows` that bind the parts of one long document together: int64 [P, 2]."""
    cut = np.flatnonzero(index.parts[rows] > 0)
    _, first, group = np.unique(index.origins[rows[cut]], return_index=True, return_inverse=True)
    return np.stack([cut[first[group]], cut], axis=1).reshape(-1, 2)


def stop_if_asked(run: StageRun) -> None:
    if run.stop_requested:
        raise Interrupted("stopped before the corpus was complete", "run again: what was measured is kept")
