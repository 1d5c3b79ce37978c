"""The walk of `data.prepare`, in two passes, so that memory holds hashes and not texts.

    pass 1    read -> clean -> cut -> language -> quality     good documents are spilled to the scratch directory,
                                                              128 hashes of each stay in memory (512 bytes)
    between   sample, duplicates and split are decided        on hashes alone, in the order of ids
    pass 2    the spill is streamed to its destinations       in the order it was read

Nothing random is left after the sources: the same files give the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.artifact import write_json
from danlu.core.errors import Interrupted, UserError
from danlu.core.stage import StageRun
from danlu.data.clean.characters import clean
from danlu.data.dedup import minhash
from danlu.data.document import COLUMNS, REJECTED_SCHEMA, SCHEMA, Document, ShardWriter, document_id, read_parquet
from danlu.data.formats.extract import Broken, Item
from danlu.data.language import detect
from danlu.data.ledger import Index, Intake, Judged, Rejected, Sample
from danlu.data.prepare import PrepareConfig
from danlu.data.quality.rules import Measured, judge
from danlu.data.sources.find import SourceFile, find_files
from danlu.data.split import cut, draw, hold_out

TRAIN, VALIDATION, NOT_DRAWN, EXACT, NEAR = range(5)  # where a document goes


def run_pipeline(config: PrepareConfig, run: StageRun) -> dict[str, Any]:
    """Fill `run.out` with the corpus; returns the metrics. Raises UserError when nothing would be left."""
    run.clear_work()
    with run.graceful(), ShardWriter(run.out, "rejected", REJECTED_SCHEMA) as writer:
        rejected = Rejected(writer)
        intake = Intake()
        index = _first_pass(config, run, rejected, intake)
        fate = _decide(config, index)
        totals = _second_pass(run, index, fate, rejected)
    intake.not_drawn += int((fate.where == NOT_DRAWN).sum())
    report = _report(intake, rejected, fate, totals)
    write_json(run.out / "report.json", report)
    _warn(run, report)
    return {
        "documents": report["kept"]["documents"],
        "bytes": report["kept"]["bytes"],
        "train_documents": report["splits"]["train"]["documents"],
        "validation_documents": report["splits"]["validation"]["documents"],
        "rejected": rejected.total,
        "duplicates": report["dropped"].get("duplicate:exact", 0) + report["dropped"].get("duplicate:near", 0),
    }


# ---- pass 1 ----------------------------------------------------------------------------------------------------


def _first_pass(config: PrepareConfig, run: StageRun, rejected: Rejected, intake: Intake) -> Index:
    """Spill every document that can be read and passes the rules; remember its hashes."""
    index = Index()
    sample = Sample(config.max_documents, config.max_bytes)
    files = [file for spec in config.sources for file in find_files(spec)]
    intake.files = len(files)
    with ShardWriter(run.work, "clean", SCHEMA) as spill:
        for number, file in enumerate(files):
            run.progress(number, len(files), "files")
            for item in file.read(config.text_field):
                _stop_if_asked(run)
                if isinstance(item, Broken):
                    rejected.add(_broken_row(config, file, item), item.reason, item.detail)
                    continue
                intake.count(file.source, len(item.text.encode("utf-8", "surrogatepass")))
                identity = document_id(file.source, file.name + item.place, item.text)
                drawn = draw(identity, "sample")
                if drawn >= sample.border:
                    intake.not_drawn += 1
                    continue
                for judged in _judge_item(config, file, item, identity, drawn, intake):
                    if judged.reason:
                        rejected.add(judged.row, judged.reason, judged.detail)
                    else:
                        spill.write(judged.row)
                        index.add(judged)
                        sample.add(drawn, index.sizes[-1])
    run.progress(len(files), len(files), "files")
    if not len(index):
        raise _nothing_left(config, rejected)
    index.sample_border = sample.border
    return index


def _judge_item(
    config: PrepareConfig, file: SourceFile, item: Item, identity: str, drawn: float, intake: Intake
) -> Iterator[Judged]:
    """Clean a text and judge it: one document, or the parts of a long one."""
    text, changes = clean(item.text)
    intake.cleaned.update(changes.keys())
    language = item.language or detect(text)
    licence = config.licence or file.licence
    path = file.name + item.place
    parts = cut(text, config.max_document_chars) or [""]
    for number, part in enumerate(parts, start=1):
        meta = {**item.meta, "path": path}
        name = identity
        if len(parts) > 1:
            meta |= {"part": number, "parts": len(parts), "origin": identity}
            name = document_id(file.source, f"{path}~{number}", part)
        measured = Measured(part)
        reason, detail = _reason_to_drop(config, measured, language)
        row = Document(name, part, language, file.source, licence, meta).row()
        units = [] if reason else measured.units
        yield Judged(row, units, reason, detail, identity, number if len(parts) > 1 else 0, drawn)


def _reason_to_drop(config: PrepareConfig, measured: Measured, language: str) -> tuple[str, str]:
    if not measured.text.strip():
        return "empty", ""
    if config.languages is not None and not {language, language.partition(":")[0]} & set(config.languages):
        return f"language:{language}", ""
    return judge(measured, language, config.min_units) if config.quality else ("", "")


def _broken_row(config: PrepareConfig, file: SourceFile, broken: Broken) -> dict[str, str]:
    path = file.name + broken.place
    text = broken.text.encode("utf-8", "replace").decode()
    meta = {"path": path, "detail": broken.detail}
    licence = config.licence or file.licence
    return Document(document_id(file.source, path, text), text, "", file.source, licence, meta).row()


def _nothing_left(config: PrepareConfig, rejected: Rejected) -> UserError:
    """The corpus would be empty: say what dropped everything, with the first case of the commonest reason."""
    names = ", ".join(config.sources)
    if not rejected.total:
        return UserError(f"there is no text in {names}", "the files are empty")
    common = rejected.counts.most_common(3)
    reasons = ", ".join(f"{count} {reason}" for reason, count in common)
    first = rejected.samples[common[0][0]][0]
    place = json.loads(first["meta"])["path"] + (f": {first['detail']}" if first["detail"] else "")
    return UserError(f"nothing is left of {names}: everything was dropped ({reasons})", f"first case: {place}")


def _stop_if_asked(run: StageRun) -> None:
    if run.stop_requested:
        raise Interrupted("stopped before the corpus was complete", "run again: this stage starts anew")


# ---- between the passes ----------------------------------------------------------------------------------------


@dataclass
class Fate:
    """What becomes of each document of the index, in the order of reading."""

    where: NDArray[np.int8]  # [D] TRAIN, VALIDATION, ...
    kept_instead: dict[int, tuple[str, float]] = field(default_factory=dict)  # duplicate -> (id kept, similarity)
    near_clusters: int = 0
    groups: int = 0
    largest_group: int = 0


def _decide(config: PrepareConfig, index: Index) -> Fate:
    """Sample, duplicates and split. From here on documents are in the order of their ids."""
    where = np.full(len(index), NOT_DRAWN, dtype=np.int8)
    fate = Fate(where)
    order = np.array(sorted(range(len(index)), key=lambda i: (index.ids[i], i)), dtype=np.int64)
    drawn = np.array(index.draws)[order] < index.sample_border
    documents = _drop_exact(index, order[drawn], fate)  # [K] positions of what is left
    signatures, empty = index.signatures.finish()
    signatures, empty = signatures[documents], empty[documents]
    pairs, similarity = minhash.similar_pairs(signatures, empty, config.split_similarity)

    is_near = similarity >= (config.near_duplicates if config.near_duplicates < 1 else 2)
    root = minhash.clusters(len(documents), pairs[is_near])
    dropped = root != np.arange(len(documents))
    fate.near_clusters = len(np.unique(root[dropped]))
    for i in np.flatnonzero(dropped).tolist():
        agreement = float((signatures[i] == signatures[root[i]]).mean())
        where[documents[i]] = NEAR
        fate.kept_instead[int(documents[i])] = (index.ids[documents[root[i]]], round(agreement, 3))

    rest = np.flatnonzero(~dropped)  # [R] positions in `documents`
    renumbered = np.cumsum(~dropped) - 1
    both_left = ~dropped[pairs].any(axis=1)
    similar = renumbered[pairs[both_left]]
    groups = minhash.clusters(len(rest), np.concatenate([similar, _same_origin(index, documents[rest])]))
    ids = [index.ids[i] for i in documents[rest].tolist()]
    parts = [index.parts[i] for i in documents[rest].tolist()]
    sizes = np.array(index.sizes, dtype=np.int64)[documents[rest]]
    held_out = hold_out(ids, groups, sizes, parts, config.validation_share)
    where[documents[rest]] = np.where(held_out, VALIDATION, TRAIN)
    _, members = np.unique(groups, return_counts=True)
    fate.groups, fate.largest_group = len(members), int(members.max(initial=0))
    return fate


def _drop_exact(index: Index, order: NDArray[np.int64], fate: Fate) -> NDArray[np.int64]:
    """Mark all but the first of equal texts; returns the positions of the first ones, still in order."""
    first: dict[bytes, int] = {}
    for i in order.tolist():
        kept = first.setdefault(index.text_hashes[i], i)
        if kept != i:
            fate.where[i] = EXACT
            fate.kept_instead[i] = (index.ids[kept], 1.0)
    return np.fromiter(first.values(), dtype=np.int64, count=len(first))


def _same_origin(index: Index, documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs that bind the parts of one long document together: int64 [P, 2]."""
    first: dict[str, int] = {}
    pairs = [
        (first.setdefault(index.origins[document], i), i)
        for i, document in enumerate(documents.tolist())
        if index.parts[document]
    ]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


# ---- pass 2 ----------------------------------------------------------------------------------------------------


@dataclass
class Totals:
    documents: Counter[str] = field(default_factory=Counter)  # by split
    bytes: Counter[str] = field(default_factory=Counter)
    by_language: dict[str, Counter[str]] = field(default_factory=dict)
    by_source: dict[str, Counter[str]] = field(default_factory=dict)


def _second_pass(run: StageRun, index: Index, fate: Fate, rejected: Rejected) -> Totals:
    """Stream the spill to train, validation and rejected files."""
    totals = Totals()
    with ExitStack() as stack:
        writers = {
            place: (name, stack.enter_context(ShardWriter(run.out, name, SCHEMA)))
            for place, name in ((TRAIN, "train"), (VALIDATION, "validation"))
        }
        for i, row in enumerate(read_parquet(run.work, "clean", COLUMNS)):
            _stop_if_asked(run)
            place = int(fate.where[i])
            if place in writers:
                split, writer = writers[place]
                writer.write(row)
                size = len(row["text"].encode())
                totals.documents[split] += 1
                totals.bytes[split] += size
                for table, key in ((totals.by_language, "language"), (totals.by_source, "source")):
                    counts = table.setdefault(row[key], Counter())
                    counts["documents"] += 1
                    counts["bytes"] += size
            elif place in (EXACT, NEAR):
                kept, similarity = fate.kept_instead[i]
                row["meta"] = _with(row["meta"], duplicate_of=kept, similarity=similarity)
                reason = "duplicate:exact" if place == EXACT else "duplicate:near"
                rejected.add(row, reason, f"of {kept}, similarity {similarity}")
            run.progress(i + 1, len(index), "documents")
    return totals


def _with(meta: str, **more: Any) -> str:
    return json.dumps(json.loads(meta) | more, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


# ---- report ----------------------------------------------------------------------------------------------------


def _report(intake: Intake, rejected: Rejected, fate: Fate, totals: Totals) -> dict[str, Any]:
    return {
        "in": {
            "files": intake.files,
            "texts": intake.texts,
            "bytes": intake.bytes,
            "by_source": {name: dict(counts) for name, counts in intake.by_source.items()},
        },
        "cleaned_texts_by_step": dict(intake.cleaned),
        "kept": {"documents": totals.documents.total(), "bytes": totals.bytes.total()},
        "by_language": {name: dict(counts) for name, counts in totals.by_language.items()},
        "by_source": {name: dict(counts) for name, counts in totals.by_source.items()},
        "splits": {
            split: {"documents": totals.documents[split], "bytes": totals.bytes[split]}
            for split in ("train", "validation")
        },
        "dropped": dict(rejected.counts),
        "dropped_samples": dict(rejected.samples),
        "not_drawn": intake.not_drawn,
        "duplicates": {
            "exact": rejected.counts["duplicate:exact"],
            "near": rejected.counts["duplicate:near"],
            "near_clusters": fate.near_clusters,
        },
        "split_groups": {"groups": fate.groups, "largest": fate.largest_group},
    }


# Reasons that speak of the user's files rather than of their content: worth a line on the screen.
_UNREAD = ("broken_line", "encoding", "unreadable", "no_text", "no_main_text")


def _warn(run: StageRun, report: dict[str, Any]) -> None:
    for reason in _UNREAD:
        count = report["dropped"].get(reason, 0)
        if count:
            first = report["dropped_samples"][reason][0]
            path = json.loads(first["meta"])["path"]
            message = f"{count} x {reason}, kept aside in rejected-00000.parquet; first: {path}: {first['detail']}"
            run.events.emit("warning", message=message)
    if not report["splits"]["validation"]["documents"]:
        run.events.emit("warning", message="nothing is held out: the documents are too few or too alike to be split")
