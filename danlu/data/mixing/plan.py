"""The plan of a mixture: how much of each group in which phase, and the place of every reading, in whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import UserError
from danlu.data.mixing.allocate import allocate, natural_budget, shares_of, weights_of
from danlu.data.mixing.catalogue import TRAIN, Catalogue
from danlu.data.mixing.streams import Stream, make_stream, times

if TYPE_CHECKING:
    from danlu.data.mix import MixConfig


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
