"""From a corpus, or from a file of conversations, to chat rows: stage `data.instruct`.

    how: docstrings     functions of the corpus's Python documents and their docstrings (see `docstrings`)
    how: file           conversations of `source` in any format of `dataset` (messages, ShareGPT, Alpaca, pairs)

Rows made from a corpus keep the side their document was given by the split. Rows of a file are split here, equal
questions on one side. Rows that are too long or said before go to rejected-*.parquet with the reason; the held-out
side is read first, so of two equal rows the one in training is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from danlu.core.artifact import Artifact, write_json
from danlu.core.errors import Interrupted, UserError
from danlu.core.stage import StageConfig, StageRun, stage

if TYPE_CHECKING:
    from danlu.data.dataset import Row

_EXAMPLES = 3  # rows shown in the report
# What a maker of rows yields: the split (or "rejected"), the row, and the reason to reject it.
Made = tuple[str, "Row", str]


class InstructConfig(StageConfig):
    how: Literal["docstrings", "file"] = "docstrings"
    source: str | list[str] | None = None
    """With `how: file`: the file or files of conversations (jsonl, json, csv, parquet; also .gz and .zst)."""
    max_chars: Annotated[int, Field(ge=100)] = 4_000
    """Longer conversations are dropped: cut ones would teach to stop in the middle."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Draw at most so many rows for training, by the hash of their ids."""
    validation_share: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """With `how: file`: the share held out."""

    @model_validator(mode="after")
    def _source_fits(self) -> InstructConfig:
        if self.how == "file" and not self.source:
            raise ValueError("how: file needs source: the file of conversations")
        if self.how == "docstrings" and self.source:
            raise ValueError("source is only read with how: file")
        return self

    @property
    def files(self) -> list[Path]:
        names = [self.source] if isinstance(self.source, str) else self.source or []
        return [Path(name).expanduser() for name in names]


def _fingerprint(config: InstructConfig) -> Any:
    if config.how != "file":
        return None
    from danlu.data.sources.find import fingerprint

    return [fingerprint(str(path)) for path in config.files]


@stage("data.instruct", makes="dataset", takes={"corpus?": "corpus"}, version="1", fingerprint=_fingerprint)
def instruct(config: InstructConfig, run: StageRun, corpus: Artifact | None = None) -> dict[str, Any]:
    """Make chat rows from docstrings or from a file of conversations."""
    from danlu.data.dataset import REJECTED_SCHEMA, write_rows
    from danlu.data.document import ShardWriter

    seen: set[str] = set()
    dropped: Counter[str] = Counter()
    documents: Counter[str] = Counter()  # what became of the documents of the corpus
    kept: dict[str, list[Row]] = {"validation": [], "train": []}
    with run.graceful(), ShardWriter(run.out, "rejected", REJECTED_SCHEMA) as rejected:
        for split, row, reason in _made(config, corpus, documents):
            if run.stop_requested:
                raise Interrupted("stopped before the dataset was complete", "run again: this stage starts anew")
            reason = reason or _reason_to_drop(config, row, seen)
            if reason:
                dropped[reason] += 1
                rejected.write({**row.row(), "reason": reason})
            else:
                seen.add(row.id)
                kept[split].append(row)
            run.progress(len(seen), None, "rows")
    available = len(kept["train"])
    if not available:
        raise _no_rows(config, dropped)
    kept["train"] = _drawn(kept["train"], config.max_rows)
    for split, rows in kept.items():
        write_rows(run.out, split, rows)
    report = {
        "rows": {split: len(rows) for split, rows in kept.items()},
        "tasks": dict(Counter(row.meta.get("task", "chat") for rows in kept.values() for row in rows)),
        "dropped": dict(dropped),
        "not_drawn": available - len(kept["train"]),
        "documents": dict(documents),
        "examples": [row.row()["messages"] for row in kept["train"][:_EXAMPLES]],
    }
    write_json(run.out / "report.json", report)
    if dropped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        run.events.emit("warning", message=f"rows kept aside in rejected-00000.parquet: {reasons}")
    return {
        "rows": len(kept["train"]),
        "validation_rows": len(kept["validation"]),
        "dropped": dropped.total(),
    }


def _made(config: InstructConfig, corpus: Artifact | None, documents: Counter[str]) -> Iterator[Made]:
    if config.how == "file":
        return _from_files(config)
    if corpus is None:
        raise UserError("how: docstrings needs a corpus", "corpus: $corpus; or how: file with source: chats.jsonl")
    return _from_corpus(corpus, documents)


def _from_corpus(corpus: Artifact, documents: Counter[str]) -> Iterator[Made]:
    """Rows of every Python document, held-out documents first. Counts what became of the documents."""
    from danlu.data.dataset import Row, messages_id
    from danlu.data.docstrings import functions, rows
    from danlu.data.document import read_documents

    for split in ("validation", "train"):
        for document in read_documents(corpus, split):
            if document.language != "code:python":
                documents["not_python"] += 1
                continue
            try:
                found = list(functions(document.text))
            except SyntaxError:  # another version's Python, or a part of a document that was cut
                documents["not_parsed"] += 1
                continue
            documents["used" if found else "without_docstrings"] += 1
            for function in found:
                for task, messages in rows(document.id, function):
                    meta = {"document": document.id, "task": task, "function": function.name}
                    yield split, Row(messages_id(messages), messages, document.source, meta), ""


def _from_files(config: InstructConfig) -> Iterator[Made]:
    """Rows of conversation files: first what cannot be read, then the held-out rows, then the others."""
    import numpy as np

    from danlu.data.dataset import Row, messages_id, read_conversations
    from danlu.data.document import document_id
    from danlu.data.formats.extract import Broken
    from danlu.data.split import hold_out

    rows: list[Row] = []
    for path in config.files:
        for found in read_conversations(path):
            if isinstance(found, Broken):
                identity = document_id(path.name, found.place, found.text)
                said = [{"role": "user", "content": found.text.encode("utf-8", "replace").decode()}]
                yield "rejected", Row(identity, said, path.name, _meta(path, found.place, found.detail)), found.reason
            else:
                place, messages = found
                rows.append(Row(messages_id(messages), messages, path.name, _meta(path, place)))
    rows.sort(key=lambda row: row.id)  # stable: equal rows stay in the order of reading
    first: dict[str, int] = {}
    groups = np.array([first.setdefault(_question(row), i) for i, row in enumerate(rows)], dtype=np.int64)
    sizes = np.array([len(str(row.messages)) for row in rows], dtype=np.int64)
    held_out = hold_out([row.id for row in rows], groups, sizes, [0] * len(rows), config.validation_share)
    for split, side in (("validation", True), ("train", False)):
        yield from ((split, rows[i], "") for i in np.flatnonzero(held_out == side).tolist())


def _meta(path: Path, place: str, detail: str = "") -> dict[str, Any]:
    return {"path": path.name + place, **({"detail": detail} if detail else {})}


def _question(row: Row) -> str:
    return next(message["content"].strip() for message in row.messages if message["role"] == "user")


def _reason_to_drop(config: InstructConfig, row: Row, seen: set[str]) -> str:
    if row.id in seen:
        return "duplicate"
    if sum(len(message["content"]) for message in row.messages) > config.max_chars:
        return "too_long"
    return ""


def _drawn(rows: list[Row], max_rows: int | None) -> list[Row]:
    """At most `max_rows` rows, those with the smallest draws, in their old order."""
    from danlu.data.split import draw

    if max_rows is None or len(rows) <= max_rows:
        return rows
    chosen = {row.id for row in sorted(rows, key=lambda row: draw(row.id, "sample"))[:max_rows]}
    return [row for row in rows if row.id in chosen]


def _no_rows(config: InstructConfig, dropped: Counter[str]) -> UserError:
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common(3))
    if config.how == "file":
        names = ", ".join(path.name for path in config.files)
        hint = 'a line looks like {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}'
        return UserError(f"no conversation could be used from {names}" + (f" ({reasons})" if reasons else ""), hint)
    what = f": all rows were dropped ({reasons})" if reasons else ""
    return UserError(f"the corpus gives no instruction rows{what}", "docstrings need Python documents with docstrings")
