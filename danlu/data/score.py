"""Scores beside the rows, and a threshold where one is wanted. Stage `data.score`.

The scorer is what `data.train_classifier` (0 bad .. 1 good) or `data.train_perplexity` (bits per byte) made. Every
document gets the number in its `meta`; with `keep_from` or `keep_to`, training documents outside go to
rejected-*.parquet ("quality:SCORE_FIELD"). Scores are kept there too, so another threshold needs no other scoring:
held-out documents are scored and never dropped, or what is measured would change with the filter.
"""

from __future__ import annotations

from typing import Any

from danlu.core.artifact import Artifact
from danlu.core.stage import StageConfig, StageRun, stage

_BATCH = 256


class ScoreConfig(StageConfig):
    field: str = ""
    """Name in `meta`; default "quality" for a classifier, "bits_per_byte" for an n-gram model."""
    keep_from: float | None = None
    keep_to: float | None = None


@stage("data.score", makes="corpus", takes={"corpus": "corpus", "scorer": "report"}, version="1")
def score(config: ScoreConfig, run: StageRun, corpus: Artifact, scorer: Artifact) -> dict[str, Any]:
    """Score every document with a trained model; drop those outside the thresholds, if any."""
    from dataclasses import replace

    import numpy as np

    from danlu.core.artifact import write_json
    from danlu.core.errors import Interrupted
    from danlu.data.document import REJECTED_SCHEMA, SCHEMA, ShardWriter, batched, read_documents
    from danlu.data.quality.classifier import Classifier
    from danlu.data.quality.perplexity import NgramModel

    if (scorer.path / "ngram.json").is_file():
        field, scores_of = config.field or "bits_per_byte", NgramModel.load(scorer.path).bits_per_byte
    else:
        field, scores_of = config.field or "quality", Classifier.load(scorer.path).scores
    low = -np.inf if config.keep_from is None else config.keep_from
    high = np.inf if config.keep_to is None else config.keep_to
    counts = {"train": 0, "validation": 0, "rejected": 0}
    seen: list[float] = []
    with run.graceful(), ShardWriter(run.out, "rejected", REJECTED_SCHEMA) as rejected:
        for split in ("train", "validation"):
            with ShardWriter(run.out, split, SCHEMA) as kept:
                for batch in batched(read_documents(corpus, split), _BATCH):
                    if run.stop_requested:
                        raise Interrupted("stopped while scoring")
                    for document, value in zip(batch, scores_of([d.text for d in batch]).tolist(), strict=True):
                        value = round(value, 5) if np.isfinite(value) else None
                        row = replace(document, meta=document.meta | {field: value}).row()
                        seen.append(np.nan if value is None else value)
                        if split == "train" and value is not None and not low <= value <= high:
                            rejected.write({**row, "reason": f"quality:{field}"})
                            counts["rejected"] += 1
                        else:
                            kept.write(row)
                            counts[split] += 1
                    run.progress(len(seen), None, "documents")
    cuts = {f"p{p}": round(float(np.nanpercentile(seen, p)), 5) for p in (1, 5, 25, 50, 75, 95, 99)} if seen else {}
    write_json(
        run.out / "report.json", {"field": field, "scorer": scorer.id, "scores": cuts, "rejected": counts["rejected"]}
    )
    return {
        "documents": counts["train"] + counts["validation"],
        "train_documents": counts["train"],
        "validation_documents": counts["validation"],
        "rejected": counts["rejected"],
    }
