"""The report of a corpus: what came in, what was dropped and why, what is left.

report.json holds the numbers; report.html (page) and README.md (card) show them to people.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.artifact import write_json
from danlu.core.errors import UserError
from danlu.core.stage import StageRun
from danlu.data.report import card, page

if TYPE_CHECKING:
    from danlu.data.selecting import Books, Fate

# Reasons that speak of the user's files rather than of their content: worth a line on the screen.
_UNREAD = ("broken_line", "encoding", "unreadable", "no_text", "no_main_text")


def write_report(run: StageRun, measured: Path, books: Books, fate: Fate) -> dict[str, Any]:
    """Write report.json, its page and its card, warn of what should be looked at, return the metrics.

    Raises UserError when nothing is left.
    """
    before = json.loads((measured / "report.json").read_text("utf-8"))
    if not books.documents.total():
        raise _nothing_left(before, books)
    report = {**before, **_report(books, fate)}
    write_json(run.out / "report.json", report)
    (run.out / "report.html").write_text(page.render(report), encoding="utf-8")
    (run.out / "README.md").write_text(card.render(report), encoding="utf-8")
    _warn(run, report)
    return {
        "documents": report["kept"]["documents"],
        "bytes": report["kept"]["bytes"],
        "train_documents": report["splits"]["train"]["documents"],
        "validation_documents": report["splits"]["validation"]["documents"],
        "rejected": books.dropped.total(),
        "duplicates": report["duplicates"]["exact"] + report["duplicates"]["near"],
    }


def _report(books: Books, fate: Fate) -> dict[str, Any]:
    return {
        "kept": {"documents": books.documents.total(), "bytes": books.bytes.total()},
        "by_language": {name: dict(counts) for name, counts in sorted(books.by_language.items())},
        "by_source": {name: dict(counts) for name, counts in sorted(books.by_source.items())},
        "by_licence": {name: dict(counts) for name, counts in sorted(books.by_licence.items())},
        "lengths": {  # language -> [[bytes from, documents], ...], classes double
            name: [[2**log, count] for log, count in sorted(counts.items())]
            for name, counts in sorted(books.lengths.items())
        },
        "splits": {
            split: {"documents": books.documents[split], "bytes": books.bytes[split]}
            for split in ("train", "validation")
        },
        "dropped": dict(sorted(books.dropped.items())),
        "dropped_bytes": dict(sorted(books.dropped_bytes.items())),
        "dropped_samples": dict(sorted(books.samples.items())),
        "not_drawn": books.not_drawn,
        "duplicates": {
            "exact": books.dropped["duplicate:exact"],
            "near": books.dropped["duplicate:near"],
            "url": books.dropped["duplicate:url"],
            "semantic": books.dropped["duplicate:semantic"],
            "near_clusters": fate.near_clusters,
        },
        "trimmed": books.trimmed,
        "topics": fate.topics,
        "split_groups": {"groups": fate.groups, "largest": fate.largest_group},
    }


def _nothing_left(before: dict[str, Any], books: Books) -> UserError:
    """The corpus would be empty: say what dropped everything, with the first case of the commonest reason."""
    names = ", ".join(before["in"]["by_source"]) or "the sources"
    if not books.dropped:
        return UserError(f"there is no text in {names}", "the files are empty")
    common = books.dropped.most_common(3)
    reasons = ", ".join(f"{count} {reason}" for reason, count in common)
    first = books.samples[common[0][0]][0]
    place = json.loads(first["meta"])["path"] + (f": {first['detail']}" if first["detail"] else "")
    return UserError(f"nothing is left of {names}: everything was dropped ({reasons})", f"first case: {place}")


def _warn(run: StageRun, report: dict[str, Any]) -> None:
    for reason in _UNREAD:
        count = report["dropped"].get(reason, 0)
        if count:
            first = report["dropped_samples"][reason][0]
            path = json.loads(first["meta"])["path"]
            message = (
                f"{count} x {reason}, kept aside in rejected-00000.parquet; first: {path}: {first['detail'][:200]}"
            )
            run.events.emit("warning", message=message)
    if not report["splits"]["validation"]["documents"]:
        run.events.emit("warning", message="nothing is held out: the documents are too few or too alike to be split")
