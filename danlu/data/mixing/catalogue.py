"""The catalogue of a mixture: a few numbers for every document, the plan made of them, and the rows it calls for.

Two walks over the corpora. The first reads ids, lengths and meta into arrays (some 50 bytes a document, no text); then
the plan is made; the second reads the texts and hands on each row with its place in the output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.artifact import Artifact
from danlu.core.errors import Interrupted, UserError
from danlu.core.stage import StageRun
from danlu.data.document import COLUMNS, read_parquet
from danlu.data.mixing.allocate import allocate, natural_budget, shares_of, weights_of
from danlu.data.mixing.streams import Stream, make_stream, times

if TYPE_CHECKING:
    from danlu.data.mix import MixConfig

TRAIN, HELD_OUT, DUPLICATE = range(3)


@dataclass
class Catalogue:
    """Training documents of all corpora in the order of reading, [D] each; and the ids that are held out."""

    ids: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    bytes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    copies: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    scores: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    fate: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    edges: list[float] = field(default_factory=list)  # between the quality buckets

    @classmethod
    def read(cls, corpora: Mapping[str, Artifact], config: MixConfig, run: StageRun) -> Catalogue:
        """The first walk."""
        held_out = {row["id"] for a in corpora.values() for row in read_parquet(a, "validation", ["id"])}
        found = cls()
        sizes, copies, scores, quality, fate = [], [], [], [], []
        seen: set[str] = set()
        named: list[dict[str, str]] = []
        numbers = {"corpus", "source", "language"} & set(config.by)
        for name, corpus in corpora.items():
            for row in read_parquet(corpus, "train", ("id", "text", "language", "source", "meta")):
                _stop_if_asked(run)
                meta = json.loads(row["meta"] or "{}")
                size = len(row["text"].encode("utf-8", "surrogatepass"))
                fate.append(DUPLICATE if row["id"] in seen else HELD_OUT if row["id"] in held_out else TRAIN)
                seen.add(row["id"])
                found.ids.append(row["id"])
                named.append({k: name if k == "corpus" else row[k] for k in numbers})
                sizes.append(size)
                copies.append(_number(meta.get("copies"), 1))
                scores.append(size if config.order_by == "length" else _number(meta.get(config.order_by), np.nan))
                quality.append(_number(meta.get(config.bucket_by), np.nan))
                run.progress(len(found.ids), None, "documents")
        found.bytes = np.array(sizes, dtype=np.int64)
        found.copies = np.maximum(np.array(copies, dtype=np.float64), 1).astype(np.int64)
        found.scores = _complete(np.array(scores, dtype=np.float64), config.order_by, _orders(config))
        found.fate = np.array(fate, dtype=np.int8)
        buckets = found._buckets(np.array(quality, dtype=np.float64), config) if "bucket" in config.by else None
        for i, values in enumerate(named):
            parts = [str(buckets[i]) if buckets is not None and k == "bucket" else values.get(k, "") for k in config.by]
            found.groups.append("/".join(parts))
        return found

    def _buckets(self, quality: NDArray[np.float64], config: MixConfig) -> NDArray[np.int64]:
        """int64 [D]: which quantile of the score a document is in, 0 the lowest."""
        quality = _complete(quality, config.bucket_by, True)
        cuts = np.quantile(quality, np.arange(1, config.buckets) / config.buckets)
        self.edges = [round(float(cut), 6) for cut in cuts]
        return np.searchsorted(cuts, quality, side="right")


@dataclass
class Placement:
    """Where documents go: for each readings, sorted by document and epoch. int64 [R] each."""

    documents: NDArray[np.int64]
    places: NDArray[np.int64]

    @property
    def rows(self) -> int:
        return len(self.documents)

    def sizes(self, catalogue: Catalogue) -> NDArray[np.int64]:
        """int64 [R]: bytes of text at each place of the output."""
        sizes = np.empty(self.rows, dtype=np.int64)
        sizes[self.places] = catalogue.bytes[self.documents]
        return sizes


def make_plan(catalogue: Catalogue, config: MixConfig) -> tuple[dict[str, Any], Placement]:
    """(the plan as JSON, where every reading goes). Raises UserError when nothing can be taken."""
    streams = _streams(catalogue, config)
    names = list(streams)
    epochs = np.array([s.epoch for s in streams.values()], dtype=np.int64)
    caps = np.floor(epochs * _caps(names, config)).astype(np.int64)
    phases, readings = [], []
    used = np.zeros(len(names), dtype=np.int64)
    budget = _budget(config, names, epochs, caps)
    for number, (phase, amount) in enumerate(zip(config.all_phases, _split(budget, config), strict=True)):
        shares = _shares(phase, names, epochs)
        amounts = allocate(shares, caps - used, amount)
        used += amounts
        phases.append(
            {
                "order": phase.order,
                "budget": amount,
                "shares": {n: round(float(s), 6) for n, s in zip(names, shares, strict=True)},
                "amounts": {n: int(a) for n, a in zip(names, amounts, strict=True)},
            }
        )
        for name, take in zip(names, amounts.tolist(), strict=True):
            stream = streams[name]
            entries, epoch = stream.take(take)
            order, place = stream.places(entries, epoch, phase.order)
            readings.append((stream.documents[entries[order]], epoch[order], place + number))
    documents, epoch, place = (np.concatenate(column) for column in zip(*readings, strict=True))
    if not len(documents):
        raise UserError("the mixture is empty", "the budget is smaller than the first document")
    position = np.empty(len(place), dtype=np.int64)
    position[np.lexsort((documents, place))] = np.arange(len(place))
    order = np.lexsort((position, documents))
    placement = Placement(documents[order], position[order])
    groups = _group_table(catalogue, config, streams, documents, epoch, caps, used)
    unit = "documents" if config.documents is not None else "bytes"
    plan = {
        "unit": unit,
        "budget": budget,
        "amount": int(used.sum()),
        "readings": placement.rows,
        "bytes": int(catalogue.bytes[documents].sum()),
        "seed": config.seed,
        "groups": groups,
        "phases": phases,
    }
    return plan | ({"bucket_edges": catalogue.edges} if catalogue.edges else {}), placement


def _streams(catalogue: Catalogue, config: MixConfig) -> dict[str, Stream]:
    """The stream of every group, by name, sorted."""
    names = np.array(catalogue.groups)
    repeats = times(catalogue.copies, config.rehydrate)
    streams = {}
    for name in sorted(set(catalogue.groups)):
        rows = np.flatnonzero((names == name) & (catalogue.fate == TRAIN))
        sizes = np.ones(len(rows), np.int64) if config.documents is not None else catalogue.bytes[rows]
        ids = [catalogue.ids[row] for row in rows.tolist()]
        salt = f"mix {config.seed}"
        streams[name] = make_stream(ids, rows, sizes, catalogue.scores[rows], repeats[rows], salt)
    if not streams:
        raise UserError("the corpora hold no documents to train on", "data.prepare makes them")
    return streams


def _shares(phase: Any, names: list[str], epochs: NDArray[np.int64]) -> NDArray[np.float64]:
    weights = weights_of(names, phase.weights)
    return shares_of(weights, epochs, phase.temperature, weighted=bool(phase.weights))


def _caps(names: list[str], config: MixConfig) -> NDArray[np.float64]:
    if not isinstance(config.max_epochs, dict):
        return np.full(len(names), config.max_epochs)
    for key in config.max_epochs:
        if not any(fnmatchcase(name, key) for name in names):
            raise UserError(f'max_epochs: no group is called "{key}"', "groups: " + ", ".join(names[:20]))
    fitting = [sorted((k for k in config.max_epochs if fnmatchcase(n, k)), key=lambda k: (-len(k), k)) for n in names]
    return np.array([config.max_epochs[f[0]] if f else 1.0 for f in fitting])


def _budget(config: MixConfig, names: list[str], epochs: NDArray[np.int64], caps: NDArray[np.int64]) -> int:
    if config.tokens is not None:
        return round(config.tokens * config.bytes_per_token)
    given = config.bytes if config.bytes is not None else config.documents
    if given is not None:
        return given
    phases = config.all_phases  # all phases together have one mixture: the mean of theirs
    total = sum(phase.share for phase in phases)
    mean = np.sum([_shares(phase, names, epochs) * (phase.share / total) for phase in phases], axis=0)
    return natural_budget(mean, caps)


def _split(budget: int, config: MixConfig) -> list[int]:
    shares = np.array([phase.share for phase in config.all_phases])
    return allocate(shares / shares.sum(), np.full(len(shares), budget + 1, np.int64), budget).tolist()


def _group_table(
    catalogue: Catalogue,
    config: MixConfig,
    streams: dict[str, Stream],
    documents: NDArray[np.int64],
    epoch: NDArray[np.int64],
    caps: NDArray[np.int64],
    used: NDArray[np.int64],
) -> dict[str, Any]:
    names = np.array(catalogue.groups)
    table = {}
    for number, (name, stream) in enumerate(streams.items()):
        mine = names[documents] == name
        read = np.unique(documents[mine])
        table[name] = {
            "documents": len(np.unique(stream.documents)),
            "epoch": stream.epoch,
            "amount": int(used[number]),
            "epochs": round(int(used[number]) / stream.epoch, 6) if stream.epoch else 0.0,
            "full_epochs": int(used[number]) // stream.epoch if stream.epoch else 0,
            "capped": bool(0 < caps[number] == used[number] and caps[number] != stream.epoch),
            "readings": int(mine.sum()),
            "documents_read": len(read),
            "bytes": int(catalogue.bytes[documents[mine]].sum()),
            "draw": f"blake2b of id, salt mix {config.seed}",
        }
    return table


def rows_of(
    catalogue: Catalogue, placement: Placement, corpora: Mapping[str, Artifact], run: StageRun
) -> Iterator[tuple[str, dict[str, Any], int]]:
    """The second walk: ("train", row, place), ("validation", row, -1), and (reason, row, -1) of what is dropped."""
    number = done = 0
    for name, corpus in corpora.items():
        for row in read_parquet(corpus, "train", COLUMNS):
            _stop_if_asked(run)
            if catalogue.fate[number] != TRAIN:
                yield ("held_out" if catalogue.fate[number] == HELD_OUT else "duplicate:id"), row, -1
            end = int(np.searchsorted(placement.documents, number, side="right"))
            for nth, place in enumerate(placement.places[done:end].tolist(), start=1):
                yield "train", _copy(row, name, catalogue.groups[number], nth), place
            number, done = number + 1, end
            run.progress(number, len(catalogue.ids), "documents")
    seen: set[str] = set()
    for corpus in corpora.values():
        for row in read_parquet(corpus, "validation", COLUMNS):
            if row["id"] in seen:
                yield "duplicate:id", row, -1
            else:
                seen.add(row["id"])
                yield "validation", row, -1


def _copy(row: dict[str, Any], corpus: str, group: str, nth: int) -> dict[str, Any]:
    meta = json.loads(row["meta"] or "{}") | {"mixture": group}
    if nth > 1:
        meta |= {"copy_of": row["id"], "reading": nth}
    text = json.dumps(meta, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return {**row, "id": row["id"] if nth == 1 else f"{row['id']}~{nth}", "meta": text}


def _orders(config: MixConfig) -> bool:
    return any(phase.order != "shuffle" for phase in config.all_phases)


def _complete(values: NDArray[np.float64], name: str, needed: bool) -> NDArray[np.float64]:
    """Scores without gaps: the median where a document has none. Raises UserError when all lack one that is needed."""
    missing = np.isnan(values)
    if missing.all() and len(values):
        if needed:
            raise UserError(f'no document has a number "{name}" in its meta', "score the corpora first, or use length")
        return np.zeros(len(values))
    return np.where(missing, np.median(values[~missing]) if len(values) else 0.0, values)


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default


def _stop_if_asked(run: StageRun) -> None:
    if run.stop_requested:
        raise Interrupted("stopped while mixing")
