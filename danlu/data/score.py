"""Scores beside the rows, and a threshold where one is wanted. Stage `data.score`.

The scorer is what `data.train_classifier` (0 bad .. 1 good) or `data.train_perplexity` (bits per byte) made. Every
document gets the number in its `meta`; with `keep_from` or `keep_to`, training documents outside go to
rejected-*.parquet ("quality:SCORE_FIELD"). Scores are kept there too, so another threshold needs no other scoring:
held-out documents are scored and never dropped, or what is measured would change with the filter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.artifact import Artifact
from danlu.core.stage import StageConfig, StageRun, stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ScoreConfig(StageConfig):
    field: str = ""
    """Name in `meta`; default "quality" for a classifier, "bits_per_byte" for an n-gram model."""
    keep_from: float | None = None
    keep_to: float | None = None


@stage("data.score", makes="corpus", takes={"corpus": "corpus", "scorer": "report"}, version="1")
def score(config: ScoreConfig, run: StageRun, corpus: Artifact, scorer: Artifact) -> dict[str, Any]:
    """Score every document with a trained model; drop those outside the thresholds, if any."""
    import numpy as np

    from danlu.core.artifact import write_json
    from danlu.data.rewriting import gather, metrics_of, tasks_of, work_through

    field, _ = _scorer(str(scorer.path))
    config = config.model_copy(update={"field": config.field or field})
    with run.graceful():
        settings = {"config": config.model_dump(mode="json"), "scorer": str(scorer.path)}
        folders = work_through("danlu.data.score:score_piece", tasks_of({"corpus": corpus.path}, **settings), run)
        counts = gather(folders, run)
    seen = np.concatenate([np.empty(0), *(np.load(folder / "scores.npy") for folder in folders)])
    known = len(seen) > int(np.isnan(seen).sum())
    cuts = {f"p{p}": round(float(np.nanpercentile(seen, p)), 5) for p in (1, 5, 25, 50, 75, 95, 99)} if known else {}
    report = {"field": config.field, "scorer": scorer.id, "scores": cuts, "rejected": counts["rejected"]}
    write_json(run.out / "report.json", report)
    return metrics_of(counts)


def score_piece(task: dict[str, Any], folder: Path) -> None:
    """The rows of a piece with their scores, and scores.npy: float64 [D], NaN where there is none."""
    import numpy as np

    from danlu.data.rewriting import Outlets, document_batches

    config = ScoreConfig(**task["config"])
    low = -np.inf if config.keep_from is None else config.keep_from
    high = np.inf if config.keep_to is None else config.keep_to
    _, scores_of = _scorer(task["scorer"])
    seen: list[float] = []
    with Outlets(folder) as out:
        for split, documents in document_batches(task):
            for document, value in zip(documents, scores_of([d.text for d in documents]).tolist(), strict=True):
                value = round(value, 5) if np.isfinite(value) else None
                row = replace(document, meta=document.meta | {config.field: value}).row()
                seen.append(np.nan if value is None else value)
                if split == "train" and value is not None and not low <= value <= high:
                    out.put("rejected", {**row, "reason": f"quality:{config.field}"})
                else:
                    out.put(split, row)
    np.save(folder / "scores.npy", np.array(seen, dtype=np.float64))


@functools.lru_cache(maxsize=1)
def _scorer(path: str) -> tuple[str, Callable[[list[str]], NDArray[np.float32]]]:
    """(the usual name of its scores, what gives them), read once in a process."""
    from danlu.data.quality.classifier import Classifier
    from danlu.data.quality.perplexity import NgramModel

    if (Path(path) / "ngram.json").is_file():
        return "bits_per_byte", NgramModel.load(path).bits_per_byte
    return "quality", Classifier.load(path).scores
