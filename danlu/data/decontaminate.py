"""Decontamination: documents that hold items of a benchmark leave the corpus. Stage `data.decontaminate`.

A model that has read the exam is not measured by it. Prompts and answers are looked for, copied or lightly edited (see
`contamination/index`), in training and in held-out documents alike; one that holds an item goes to rejected-*.parquet
with the reason "contamination:BENCHMARK", its `meta.contamination` names every item and where it begins and ends, and
report.json lists the hits, the files of the benchmarks with their hashes, and how many items cannot be looked for.

    from danlu.data.contamination.index import Contamination
    Contamination.load(["humaneval", "ceval=exams/ceval"]).check(text)      -> [Hit("humaneval", "HumanEval/3", ...)]
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from danlu.core.artifact import Artifact
from danlu.core.stage import StageConfig, StageRun, stage

_BATCH = 512  # documents searched together
_LISTED = 10_000  # hits named in the report; rejected rows name them all

Share = Annotated[float, Field(gt=0, le=1)]


class DecontaminateConfig(StageConfig):
    benchmarks: Annotated[list[str], Field(min_length=1)]
    """NAME of a benchmark that travels in a package, or NAME=PATH: see `danlu.data.contamination.benchmarks`."""
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
    from collections import Counter
    from dataclasses import asdict, replace

    from danlu.core.artifact import write_json
    from danlu.core.errors import Interrupted
    from danlu.data.contamination.index import Contamination
    from danlu.data.document import REJECTED_SCHEMA, SCHEMA, ShardWriter, batched, read_documents

    index = Contamination.load(config.benchmarks, config.share, config.similar)
    counts: Counter[str] = Counter()
    listed: list[dict[str, Any]] = []
    items: Counter[str] = Counter()
    with run.graceful(), ShardWriter(run.out, "rejected", REJECTED_SCHEMA) as rejected:
        for split in ("train", "validation"):
            with ShardWriter(run.out, split, SCHEMA) as kept:
                for batch in batched(read_documents(corpus, split), _BATCH):
                    if run.stop_requested:
                        raise Interrupted("stopped while looking for benchmarks")
                    for document, hits in zip(batch, index.check_many([d.text for d in batch]), strict=True):
                        if not hits:
                            kept.write(document.row())
                            counts[split] += 1
                            continue
                        found = [asdict(hit) for hit in hits]
                        named = replace(document, meta=document.meta | {"contamination": found})
                        rejected.write({**named.row(), "reason": f"contamination:{hits[0].benchmark}"})
                        items.update({f"{hit.benchmark} {hit.item}": 1 for hit in hits})
                        for hit in hits:
                            counts[f"contamination:{hit.benchmark}"] += 1
                        listed += [{"document": document.id, "split": split, **one} for one in found]
                        counts["rejected"] += 1
                    run.progress(counts.total(), None, "documents")
    by_benchmark = index.report()
    for name, entry in by_benchmark.items():
        entry["hits"] = counts[f"contamination:{name}"]
        entry["items_found"] = sum(key.startswith(f"{name} ") for key in items)
    report = {"benchmarks": by_benchmark, "rejected": counts["rejected"], "hits": listed[:_LISTED]}
    write_json(run.out / "report.json", report)
    return {
        "documents": counts["train"] + counts["validation"],
        "train_documents": counts["train"],
        "validation_documents": counts["validation"],
        "rejected": counts["rejected"],
        "items_found": len(items),
    }
