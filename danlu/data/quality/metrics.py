"""How good a binary classifier is, with intervals.

    precision = TP / (TP + FP)    recall = TP / (TP + FN)    F1 = their harmonic mean
    ROC-AUC   = the probability that a good document is scored above a bad one, ties counted half

The AUC is read off ranks (Mann-Whitney): sum of the ranks of the good ones, minus what it would be at the bottom. The
intervals are 95 % bootstrap percentiles over documents: what would change had other documents been drawn. Scores to
judge come out of `folds`: each document is scored by a model that has not seen it, nor a copy of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.data.dedup.minhash import text_hash

_BOOTSTRAP = 400


def folds(texts: Sequence[str], count: int) -> NDArray[np.int64]:
    """int64 [D]: the fold of each text, by the hash of its content: equal texts share one, order does not matter."""
    return np.array([int.from_bytes(text_hash(text)[:8], "little") % count for text in texts], dtype=np.int64)


def roc_auc(good: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Raises nothing: NaN where one of the classes is missing.

    >>> roc_auc(np.array([True, True, False]), np.array([0.9, 0.5, 0.5]))
    0.75
    """
    positives = int(good.sum())
    negatives = len(good) - positives
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of equal scores, from 1
    return float((ranks[place][good].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def confusion(good: NDArray[np.bool_], called: NDArray[np.bool_]) -> dict[str, int]:
    """Counts of true and false positives and negatives."""
    return {
        "true_positive": int((good & called).sum()),
        "false_positive": int((~good & called).sum()),
        "false_negative": int((good & ~called).sum()),
        "true_negative": int((~good & ~called).sum()),
    }


def rates(good: NDArray[np.bool_], scores: NDArray[np.floating], threshold: float = 0.5) -> dict[str, float]:
    """ROC-AUC, precision, recall, F1 and accuracy; a precision of nothing called good is 0."""
    table = confusion(good, scores >= threshold)
    hit, called = table["true_positive"], table["true_positive"] + table["false_positive"]
    precision = hit / called if called else 0.0
    recall = hit / int(good.sum()) if good.any() else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    accuracy = (hit + table["true_negative"]) / len(good) if len(good) else 0.0
    return {
        "roc_auc": roc_auc(good, scores), "precision": precision, "recall": recall, "f1": f1, "accuracy": accuracy,
    }  # fmt: skip


def judge(
    good: NDArray[np.bool_], scores: NDArray[np.floating], threshold: float = 0.5, seed: int = 0
) -> dict[str, Any]:
    """`rates` with the interval of each, the confusion matrix and n, ready for a report."""
    random = np.random.default_rng(seed)
    draws = [random.integers(0, len(good), len(good)) for _ in range(_BOOTSTRAP)]
    again = [rates(good[draw], scores[draw], threshold) for draw in draws if 0 < good[draw].sum() < len(draw)]
    result: dict[str, Any] = {"n": len(good), "good": int(good.sum()), "threshold": threshold}
    for name, value in rates(good, scores, threshold).items():
        low, high = np.percentile([one[name] for one in again], [2.5, 97.5]) if again else (np.nan, np.nan)
        result[name] = {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
    return result | {"confusion": confusion(good, scores >= threshold)}
