"""Do annotators agree? Cohen's kappa for two, Krippendorff's alpha for any number with gaps.

    kappa = (observed agreement - chance) / (1 - chance)          chance from how often each of the two uses each label
    alpha = 1 - observed disagreement / expected disagreement     over all pairs of values given to one document

1 is agreement, 0 is chance, below 0 worse than chance. Krippendorff's rule of thumb: rely on labels from 0.8, draw
tentative conclusions from 0.667. Disagreement of two values is 0 or 1 for names, the squared difference for numbers.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray


def cohen_kappa(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Of two annotators over the same documents; NaN where both always say the same one thing, or nothing is there."""
    values = np.union1d(first, second)
    if not len(first):
        return float("nan")
    observed = float((first == second).mean())
    chance = float(sum((first == v).mean() * (second == v).mean() for v in values))
    return (observed - chance) / (1 - chance) if chance < 1 else float("nan")


def krippendorff_alpha(ratings: NDArray[np.floating], level: Literal["nominal", "interval"] = "nominal") -> float:
    """Of float [D, V], NaN where an annotator gave no value. NaN when no document has two values or all are equal."""
    values = np.unique(ratings[~np.isnan(ratings)])
    if not len(values):
        return float("nan")
    counts = np.stack([(ratings == value).sum(axis=1) for value in values], axis=1).astype(np.float64)  # [D, values]
    counts = counts[counts.sum(axis=1) >= 2]
    if not len(counts):
        return float("nan")
    per = counts.sum(axis=1, keepdims=True)
    together = (counts / (per - 1)).T @ counts - np.diag((counts / (per - 1)).sum(axis=0))  # coincidences
    total = together.sum(axis=0)
    apart = np.subtract.outer(values, values) ** 2 if level == "interval" else 1.0 - np.eye(len(values))
    expected = float((np.outer(total, total) * apart).sum()) / (float(total.sum()) - 1)
    return 1.0 - float((together * apart).sum()) / expected if expected else float("nan")
