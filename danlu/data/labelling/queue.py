"""Which documents should a person look at next: those the model doubts, and no two alike.

    uncertainty   1 - (p1 - p2), the margin between the two likeliest classes
    diversity     after one is chosen, those like it count less: the gain of a document is its uncertainty times its
                  distance (1 - cosine of hashed features) to the nearest one already in the queue

chosen greedily, the most gain first (k-center with weights). Ties go to the earlier document, so the queue is the same
every time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from danlu.data.quality.features import featurize

_WIDTH = 1 << 12  # of features: enough to tell documents apart


def uncertainty(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 [D] in [0, 1] from [D, K]: 1 where the two likeliest classes are equally likely."""
    top = np.sort(probabilities, axis=1)[:, -2:]
    return 1.0 - (top[:, 1] - top[:, 0])


def choose(texts: Sequence[str], doubt: NDArray[np.float64], count: int, diversity: bool = True) -> list[int]:
    """At most `count` positions of `texts`, the most useful first; none whose doubt is 0."""
    if not diversity:
        order = np.lexsort((np.arange(len(doubt)), -doubt))
        return [int(i) for i in order[:count] if doubt[i] > 0]
    rows = featurize(texts, _WIDTH)
    far = np.ones(len(texts))  # distance to the nearest chosen
    chosen: list[int] = []
    while len(chosen) < count:
        gain = doubt * far
        best = int(np.argmax(gain)) if len(gain) else 0
        if not len(gain) or gain[best] <= 1e-9:
            break
        chosen.append(best)
        one = rows.take(np.array([best])).dense()[0]
        far = np.minimum(far, np.clip(1.0 - rows.dot(one), 0.0, 1.0))
        far[best] = 0.0
    return chosen
