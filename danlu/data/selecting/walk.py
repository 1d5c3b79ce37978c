"""The walk of `data.select`: passes over a measured corpus, so that memory holds numbers and not texts.

    pass 1    hashes, sizes and scores       judged; about 70 bytes a document stay in memory        here, judge
    pass 2    signatures of what is left     duplicates, groups that must stay together, split       here, dedup
    pass 3    texts, if asked for            duplicates of meaning, repeated lines and passages      meanings, trim
    pass 4    the rows                       each to its destination, in the order of reading        destinations

Nothing is random and nothing but the order of the rows depends on the order of reading: the same measured corpus gives
the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.data.dedup.clusters import near_duplicates
from danlu.data.dedup.urls import url_hashes
from danlu.data.measured import SIGNATURE_BYTES, count_rows, read_measured
from danlu.data.select import SelectConfig
from danlu.data.selecting.destinations import Books, deliver
from danlu.data.selecting.fate import (
    EXACT,
    NEAR,
    NOT_DRAWN,
    REFUSED,
    SEMANTIC,
    TRAIN,
    URL,
    VALIDATION,
    Fate,
    Index,
    Names,
)
from danlu.data.selecting.judge import Judge
from danlu.data.selecting.meanings import find_same_meaning, find_topics
from danlu.data.selecting.texts import read_shingles
from danlu.data.selecting.trim import find_repeated
from danlu.data.split import hold_out, joined


def select_documents(config: SelectConfig, run: StageRun, measured: Path) -> tuple[Books, Fate]:
    """Write the corpus into `run.out`; returns what went where."""
    judge = Judge(config, measured)
    index = read_index(measured, judge, run)
    fate = decide(config, index, measured, run)
    trimmer = find_repeated(config, measured, index, fate.kept, run)
    fate.topics = find_topics(config, measured, index, fate.kept, run)
    return deliver(run, measured, index, fate, judge, trimmer), fate


# ---- pass 1 ----------------------------------------------------------------------------------------------------


def read_index(measured: Path, judge: Judge, run: StageRun) -> Index:
    """Judge every row and remember its hashes. Raises UserError when there is no row."""
    columns = ["id", "meta", "text_hash", "origin", "part", "draw", "size"]
    index = Index.empty(count_rows(measured))  # filled in place: to join pieces at the end would take it twice
    if not len(index):
        raise UserError("there is no text in the sources", "the files are empty")
    start = 0
    for batch in read_measured(measured, [*columns, *judge.columns]):
        run.stop_if_asked()
        rows, hashes = slice(start, start + len(batch)), batch["text_hash"]
        index.ids[rows] = _numbers(batch["id"])
        index.text_hashes[rows] = np.frombuffer(hashes.buffers()[1], dtype="V16")[hashes.offset :][: len(batch)]
        index.urls[rows] = _url_hashes(batch["meta"])
        index.origins[rows] = _numbers(batch["origin"])
        index.parts[rows] = batch["part"].to_numpy()
        index.draws[rows] = batch["draw"].to_numpy()
        index.sizes[rows] = batch["size"].to_numpy()
        index.codes[rows] = judge.codes(batch)
        start += len(batch)
    return index


def _numbers(column: Any) -> NDArray[np.uint64]:
    """Ids of 16 hex digits as numbers."""
    digits = "".join(column.to_pylist())
    return np.frombuffer(bytes.fromhex(digits), dtype=">u8").astype(np.uint64)


def _url_hashes(metas: Any) -> NDArray[np.void]:
    """Hashes of the addresses in a column of meta, zeros where there is none."""
    urls = ["url" in meta and json.loads(meta).get("url") for meta in metas.to_pylist()]
    hashes = np.zeros((len(urls), 4), dtype=np.uint32)
    known = [i for i, url in enumerate(urls) if isinstance(url, str) and url]
    if known:
        hashes[known] = url_hashes(str(urls[i]) for i in known)
    return hashes.view("V16").ravel()


# ---- pass 2 ----------------------------------------------------------------------------------------------------


def decide(config: SelectConfig, index: Index, measured: Path, run: StageRun) -> Fate:
    """Sample, duplicates and split. Of what is alike, the document with the smallest id is kept."""
    good = index.codes == 0
    border = sample_border(index.draws[good], index.sizes[good], config.max_documents, config.max_bytes)
    drawn = index.draws < border
    fate = Fate.of(np.where(drawn, np.where(good, TRAIN, REFUSED), NOT_DRAWN).astype(np.int8))
    rows = np.flatnonzero(good & drawn)
    rows = rows[np.lexsort((rows, index.ids[rows]))]
    rows = _drop_equal(index.text_hashes[rows], rows, fate, EXACT)
    if config.url_duplicates:
        rows = _drop_equal(index.urls[rows], rows, fate, URL)
    rows = np.sort(rows)  # as their signatures lie
    found = near_duplicates(
        [_signatures(measured, index, rows, run)],
        index.ids[rows],
        run.work / "near",
        near=config.near_duplicates if config.near_duplicates < 1 else 2.0,
        loose=config.split_similarity,
        memory_bytes=config.memory_mb << 20,
        shingles=lambda wanted: read_shingles(measured, _among(index, rows[wanted]), run),
    )
    fate.near_clusters = len(np.unique(found.near[found.dropped]))
    fate.drop(rows[found.dropped], NEAR, rows[found.near[found.dropped]], found.similarity[found.dropped])
    left = np.flatnonzero(~found.dropped)  # [R] positions in `rows`
    left = left[np.argsort(index.ids[rows[left]], kind="stable")]
    rest, alike = rows[left], found.loose[left]
    if config.semantic_duplicates is not None:
        same = find_same_meaning(measured, index, rest, config.semantic_duplicates, run)
        fate.drop(rest[same.dropped], SEMANTIC, rest[same.kept_instead[same.dropped]], same.similarity[same.dropped])
        rest, alike = rest[~same.dropped], alike[~same.dropped]
    _split(config, index, rest, alike, fate)
    return fate


def _split(config: SelectConfig, index: Index, rows: NDArray[np.int64], alike: NDArray[np.uint32], fate: Fate) -> None:
    """Hold out groups of `rows` (by id): what is alike by the number in `alike`, and the parts of one document."""
    groups = joined(alike, index.parts[rows], index.origins[rows])
    held_out = hold_out(Names(index.ids[rows]), groups, index.sizes[rows], index.parts[rows], config.validation_share)
    fate.where[rows[held_out]] = VALIDATION
    _, members = np.unique(groups, return_counts=True)
    fate.groups, fate.largest_group = len(members), int(members.max(initial=0))


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


def _drop_equal(hashes: NDArray[np.void], rows: NDArray[np.int64], fate: Fate, place: int) -> NDArray[np.int64]:
    """Mark all but the first of equal hashes [K] of `rows` [K]; returns the rows that stay, in order.

    A hash of zeros is equal to nothing.
    """
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    kept = first[group]  # position of the first of my kind: np.unique finds the first occurrence
    nothing = hashes == np.void(bytes(hashes.dtype.itemsize))
    copies = np.flatnonzero((kept != np.arange(len(rows))) & ~nothing)
    fate.drop(rows[copies], place, rows[kept[copies]], 1.0)
    return np.delete(rows, copies)


def _among(index: Index, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool [D]: is this row one of `rows`."""
    found = np.zeros(len(index), dtype=bool)
    found[rows] = True
    return found


def _signatures(measured: Path, index: Index, rows: NDArray[np.int64], run: StageRun) -> Path:
    """A file of the signatures of these rows (ascending), as `dedup.tables` reads it; zeros where there is none."""
    wanted = _among(index, rows)
    path, start = run.work / "signatures.u32", 0
    with open(path, "wb") as out:
        for batch in read_measured(measured, ["signature"]):
            run.stop_if_asked()
            column = batch["signature"]
            values = np.frombuffer(column.buffers()[1], dtype=np.uint8).reshape(-1, SIGNATURE_BYTES)
            values = values[column.offset : column.offset + len(batch)].copy()
            values[column.is_null().to_numpy(zero_copy_only=False)] = 0
            out.write(values[wanted[start : start + len(batch)]].tobytes())
            start += len(batch)
    return path
