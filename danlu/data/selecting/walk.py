"""The walk of `data.select`: passes over a measured corpus, so that memory holds numbers and not texts.

    pass 1    hashes, sizes and scores       judged; 30 bytes a document stay in memory              here, judge
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
from danlu.data.dedup.exact import equal_documents
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
    index = Index.empty(count_rows(measured), run.work)  # filled in place: joining pieces would take it twice
    if not len(index):
        raise UserError("there is no text in the sources", "the files are empty")
    start = 0
    with index.text_hashes.open("wb") as texts, index.urls.open("wb") as urls:
        for batch in read_measured(measured, [*columns, *judge.columns]):
            run.stop_if_asked()
            rows, hashes = slice(start, start + len(batch)), batch["text_hash"]
            texts.write(hashes.buffers()[1][16 * hashes.offset :][: 16 * len(batch)])
            urls.write(_url_hashes(batch["meta"]).data)
            index.ids[rows] = _numbers(batch["id"])
            index.parts[rows] = batch["part"].to_numpy()
            index.draws[rows] = batch["draw"].to_numpy()
            index.sizes[rows] = batch["size"].to_numpy()
            index.codes[rows] = judge.codes(batch)
            cut = np.flatnonzero(index.parts[rows] > 0)
            index.origins.update(zip((start + cut).tolist(), _numbers(batch["origin"].take(cut)).tolist(), strict=True))
            start += len(batch)
    return index


def _numbers(column: Any) -> NDArray[np.uint64]:
    """Ids of 16 hex digits as numbers."""
    digits = "".join(column.to_pylist())
    return np.frombuffer(bytes.fromhex(digits), dtype=">u8").astype(np.uint64)


def _url_hashes(metas: Any) -> NDArray[np.uint32]:
    """uint32 [D, 4]: hashes of the addresses in a column of meta, zeros where there is none."""
    urls = ["url" in meta and json.loads(meta).get("url") for meta in metas.to_pylist()]
    hashes = np.zeros((len(urls), 4), dtype=np.uint32)
    known = [i for i, url in enumerate(urls) if isinstance(url, str) and url]
    if known:
        hashes[known] = url_hashes(str(urls[i]) for i in known)
    return hashes


# ---- pass 2 ----------------------------------------------------------------------------------------------------


def decide(config: SelectConfig, index: Index, measured: Path, run: StageRun) -> Fate:
    """Sample, duplicates and split. Of what is alike, the document with the smallest id is kept."""
    memory = config.memory_mb << 20
    good = index.codes == 0
    border = sample_border(index.draws[good], index.sizes[good], config.max_documents, config.max_bytes)
    drawn = index.draws < border
    fate = Fate.of(np.where(drawn, np.where(good, TRAIN, REFUSED), NOT_DRAWN).astype(np.int8))
    left_over = good & drawn
    for place, hashes in ((EXACT, index.text_hashes), (URL, index.urls)):
        if place == EXACT or config.url_duplicates:
            first = equal_documents(hashes, index.ids, run.work / "equal", wanted=left_over, memory_bytes=memory)
            copies = np.flatnonzero(first != np.arange(len(index), dtype=np.uint32))
            fate.drop(copies, place, first[copies], 1.0)
            left_over[copies] = False
    rows = np.flatnonzero(left_over).astype(np.uint32)  # as their signatures lie
    found = near_duplicates(
        [_signatures(measured, index, rows, run)],
        index.ids[rows],
        run.work / "near",
        near=config.near_duplicates if config.near_duplicates < 1 else 2.0,
        loose=config.split_similarity,
        memory_bytes=memory,
        shingles=lambda wanted: read_shingles(measured, _among(index, rows[wanted]), run),
    )
    fate.near_clusters = len(np.unique(found.near[found.dropped]))
    fate.drop(rows[found.dropped], NEAR, rows[found.near[found.dropped]], found.similarity[found.dropped])
    left = np.flatnonzero(~found.dropped).astype(np.uint32)  # [R] positions in `rows`
    left = left[np.argsort(index.ids[rows[left]], kind="stable")]
    rest, alike = rows[left], found.loose[left]
    del found, left  # some ten bytes a document
    if config.semantic_duplicates is not None:
        same = find_same_meaning(measured, index, rest, config.semantic_duplicates, run)
        fate.drop(rest[same.dropped], SEMANTIC, rest[same.kept_instead[same.dropped]], same.similarity[same.dropped])
        rest, alike = rest[~same.dropped], alike[~same.dropped]
    _split(config, index, rest, alike, fate)
    return fate


def _split(config: SelectConfig, index: Index, rows: NDArray[np.uint32], alike: NDArray[np.uint32], fate: Fate) -> None:
    """Hold out groups of `rows` (by id): what is alike by the number in `alike`, and the parts of one document."""
    parts = index.parts[rows]
    origins = [index.origins[row] for row in rows[parts > 0].tolist()]
    groups = joined(alike, parts, np.array(origins, dtype=np.uint64))
    held_out = hold_out(Names(index.ids[rows]), groups, index.sizes[rows], parts, config.validation_share)
    fate.where[rows[held_out]] = VALIDATION
    members = np.bincount(groups)
    fate.groups, fate.largest_group = int(np.count_nonzero(members)), int(members.max(initial=0))


def sample_border(
    draws: NDArray[np.float64], sizes: NDArray[np.int64], max_documents: int | None, max_bytes: int | None
) -> float:
    """The draw from which documents are left out: those below it are as many as the limits allow.

    The documents are taken in the order of their draws up to the first that does not fit, so a larger limit gives the
    same documents and more.
    """
    if max_documents is None and max_bytes is None:
        return 1.0
    order = np.argsort(draws, kind="stable")
    fits = np.ones(len(draws), dtype=bool)
    if max_documents is not None:
        fits[max_documents:] = False
    if max_bytes is not None:
        fits &= np.cumsum(sizes[order]) <= max_bytes
    return 1.0 if fits.all() else float(draws[order[int(np.argmin(fits))]])


def _among(index: Index, rows: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """bool [D]: is this row one of `rows`."""
    found = np.zeros(len(index), dtype=bool)
    found[rows] = True
    return found


def _signatures(measured: Path, index: Index, rows: NDArray[np.uint32], run: StageRun) -> Path:
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
