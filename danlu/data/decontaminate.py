"""Decontamination: documents that hold items of a benchmark leave the corpus. Stage `data.decontaminate`.

A model that has read the exam is not measured by it. Prompts and answers are looked for, copied or lightly edited (see
`contamination/index`), in training and in held-out documents alike; one that holds an item goes to rejected-*.parquet
with the reason "contamination:BENCHMARK", its `meta.contamination` names every item and where it begins and ends, and
report.json lists the hits, the files of the benchmarks with their hashes, and how many items cannot be looked for.

    from danlu.data.contamination.index import Contamination
    Contamination.load(["humaneval", "ceval=exams/ceval"]).check(text)      -> [Hit("humaneval", "HumanEval/3", ...)]
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from danlu.core.artifact import Artifact
from danlu.core.stage import StageConfig, StageRun, stage

if TYPE_CHECKING:
    from danlu.data.contamination.index import Contamination

_LISTED = 10_000  # hits named in the report; rejected rows name them all

Share = Annotated[float, Field(gt=0, le=1)]


class DecontaminateConfig(StageConfig):
    benchmarks: Annotated[list[str], Field(min_length=1)]
    """NAME of a benchmark that travels in a package, or NAME=PATH: see `contamination.benchmarks`."""
    share: Share = 0.5
    """Of an item, in runs of 13 units (20 Han characters), from which it counts as copied."""
    similar: Share = 0.8
    """Of an item's units in the same order, from which it counts as edited; 1 finds only copies."""


def _fingerprint(config: DecontaminateConfig) -> Any:
    from danlu.data.contamination.benchmarks import fingerprint

    return [fingerprint(spec) for spec in config.benchmarks]


@stage("data.decontaminate", makes="corpus", takes={"corpus": "corpus"}, version="1", fingerprint=_fingerprint)
def decontaminate(config: DecontaminateConfig, run: StageRun, corpus: Artifact) -> dict[str, Any]:
    """Drop documents that hold items of benchmarks, copied or lightly edited."""
    from danlu.core.artifact import write_json
    from danlu.data.rewriting import gather, metrics_of, tasks_of, work_through

    with run.graceful():
        tasks = tasks_of({"corpus": corpus.path}, config=config.model_dump(mode="json"))
        folders = work_through("danlu.data.decontaminate:decontaminate_piece", tasks, run)
        counts = gather(folders, run)
    hits: Counter[str] = Counter()
    items: set[tuple[str, str]] = set()
    listed: list[dict[str, Any]] = []
    for folder in folders:
        found = json.loads((folder / "hits.json").read_text("utf-8"))
        hits.update(hit["benchmark"] for hit in found)
        items.update((hit["benchmark"], hit["item"]) for hit in found)
        listed = (listed + found)[:_LISTED]
    by_benchmark = _index(config).report()
    for name, entry in by_benchmark.items():
        entry["hits"] = hits[name]
        entry["items_found"] = sum(benchmark == name for benchmark, _ in items)
    report = {"benchmarks": by_benchmark, "rejected": counts["rejected"], "hits": listed}
    write_json(run.out / "report.json", report)
    return metrics_of(counts) | {"items_found": len(items)}


def decontaminate_piece(task: dict[str, Any], folder: Path) -> None:
    """The rows of a piece without those that hold an item, and hits.json: what was found where."""
    from danlu.core.artifact import write_json
    from danlu.data.rewriting import Outlets, document_batches

    index = _index(DecontaminateConfig(**task["config"]))
    listed: list[dict[str, Any]] = []
    with Outlets(folder) as out:
        for split, documents in document_batches(task):
            for document, hits in zip(documents, index.check_many([d.text for d in documents]), strict=True):
                if not hits:
                    out.put(split, document.row())
                    continue
                found = [asdict(hit) for hit in hits]
                named = replace(document, meta=document.meta | {"contamination": found})
                out.put("rejected", {**named.row(), "reason": f"contamination:{hits[0].benchmark}"})
                listed += [{"document": document.id, "split": split, **one} for one in found]
    write_json(folder / "hits.json", listed)


def _index(config: DecontaminateConfig) -> Contamination:
    from danlu.data.contamination.index import load_once

    return load_once(tuple(config.benchmarks), config.share, config.similar)
