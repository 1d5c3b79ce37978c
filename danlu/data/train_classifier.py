"""A quality classifier from examples, with its worth measured. Stage `data.train_classifier`.

Good and bad examples are two corpora (`corpus` and `bad`), or one whose documents have a number in `meta` (`label`):
those with at least `good_from` are the good ones. The report has ROC-AUC, precision, recall and F1 with 95 % intervals
and the confusion matrix, from scores that each document got of a model that had not seen it (`folds`-fold, copies in
one fold), next to the rates of always saying "good". The model in the artifact is trained on all examples.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from danlu.core.artifact import Artifact
from danlu.core.stage import StageConfig, StageRun, stage
from danlu.data.quality.classifier import Kind


class TrainClassifierConfig(StageConfig):
    kind: Kind = "logistic"
    """logistic, bayes, or forest (needs scikit-learn)."""
    label: str = ""
    """Field of `meta` that holds a number; empty when `bad` is given."""
    good_from: float = 3.0
    """The least number of a good document."""
    documents: Annotated[int, Field(ge=2)] = 50_000
    """Examples of each corpus at most, drawn by the hash of their ids."""
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Score from which the report counts a document as called good."""


@stage("data.train_classifier", makes="report", takes={"corpus": "corpus", "bad?": "corpus"}, version="1")
def train_classifier(
    config: TrainClassifierConfig, run: StageRun, corpus: Artifact, bad: Artifact | None = None
) -> dict[str, Any]:
    """Train a quality classifier on good and bad documents, cross-validated."""
    import numpy as np

    from danlu.core.artifact import write_json
    from danlu.core.errors import UserError
    from danlu.data.quality import metrics
    from danlu.data.quality.classifier import WIDTHS, train_on
    from danlu.data.quality.features import featurize
    from danlu.data.rate import draw_sample

    if bool(config.label) == (bad is not None):
        raise UserError("say what is bad in one way", "give a second corpus as bad, or a field of meta as label")
    examples = [
        (d.text, d.meta.get(config.label) if config.label else True) for d in draw_sample(corpus, config.documents)
    ]
    if bad is not None:
        examples += [(d.text, False) for d in draw_sample(bad, config.documents)]
    else:
        examples = [(text, value >= config.good_from) for text, value in examples if isinstance(value, int | float)]
    if not examples:
        raise UserError(f'no document has a number "{config.label}" in its meta', "data.rate writes meta.education")
    texts, good = [text for text, _ in examples], np.array([label for _, label in examples], dtype=bool)
    rows = featurize(texts, WIDTHS[config.kind])
    fold = metrics.folds(texts, config.folds)
    scores = np.zeros(len(texts), dtype=np.float32)
    for number in range(config.folds):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        if len(inside):
            scores[inside] = train_on(config.kind, rows.take(outside), good[outside]).scores_of(rows.take(inside))
        run.progress(number + 1, config.folds, "folds")
    train_on(config.kind, rows, good).save(run.out)
    judged = metrics.judge(good, scores, config.threshold)
    baseline = metrics.rates(good, np.ones(len(good)), config.threshold)
    report = {"kind": config.kind, "folds": config.folds, "cross_validated": judged, "always_good": baseline}
    write_json(run.out / "report.json", report)
    return {
        "examples": len(texts),
        "good": int(good.sum()),
        "roc_auc": judged["roc_auc"]["value"],
        "f1": judged["f1"]["value"],
    }
