"""Duplicates of meaning: documents whose vectors point the same way (SemDeDup, arXiv:2303.09540).

    vectors [D, d] -> k-means by direction -> inside each cluster: cosine with those already kept >= threshold? drop

Comparing inside clusters only makes D^2 comparisons into about D * D/k. Which of two alike documents stays is decided
by the centroid: "far" keeps those that differ most from it, as the paper does, "near" the most typical ones. A
document is dropped for one that *stays*, so each dropped one has a kept one at its side that is as similar as the
threshold says; with all documents equal it is one comparison each.

Vectors come from `embed` or from any model, in the order of sorted ids, in memory or mapped. What is drawn is drawn
with a seed, blocks have a fixed size, and ties go to the smaller id: the same vectors on the same machine give the
same answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import UserError
from danlu.data.dedup.embed import normalised

THRESHOLD = 0.95
LARGEST = 8192  # documents of a cluster; a larger one is clustered again
_BLOCK = 4096  # vectors multiplied at once
_KEPT_BLOCK = 256  # documents of a cluster judged together
_SAMPLE = 64  # vectors a centroid, to learn centroids from
_DIGITS = 5  # similarities are compared to so many digits: sums may differ behind them

Keep = Literal["far", "near"]


@dataclass(frozen=True)
class SemanticDuplicates:
    """What was found, by row of the vectors.

    kept_instead  uint32 [D], the row that stays and is alike; itself where a row stays
    similarity    float32 [D], cosine with it
    cluster       int32 [D]; -1 for rows of zeros, which are like nothing
    centroids     float32 [k, d], of length 1
    """

    kept_instead: NDArray[np.uint32]
    similarity: NDArray[np.float32]
    cluster: NDArray[np.int32]
    centroids: NDArray[np.float32]

    @property
    def dropped(self) -> NDArray[np.bool_]:
        return self.kept_instead != np.arange(len(self.kept_instead), dtype=np.uint32)


def semantic_duplicates(
    vectors: NDArray[np.float32],
    *,
    threshold: float = THRESHOLD,
    clusters: int | None = None,
    keep: Keep = "far",
    guarded: int = 0,
    seed: int = 1,
) -> SemanticDuplicates:
    """Find rows of float32 [D, d] that are alike. The first `guarded` rows are never dropped.

    clusters is at most D; default: the square root of D. Raises UserError for what is no matrix of finite numbers.
    """
    if vectors.ndim != 2 or not 0 < threshold <= 1.001:
        raise UserError(f"vectors of shape {vectors.shape}, threshold {threshold}", "they must be [D, d] and in (0, 1]")
    count = len(vectors)
    kept_instead = np.arange(count, dtype=np.uint32)
    similarity = np.ones(count, dtype=np.float32)
    centroids = k_means(vectors, clusters or max(1, round(count**0.5)), seed)
    cluster = assign(vectors, centroids)
    by_cluster = np.argsort(cluster, kind="stable")
    borders = np.searchsorted(cluster[by_cluster], np.arange(len(centroids) + 1))
    for number, (begin, end) in enumerate(pairwise(borders)):
        for members in _pieces(vectors, by_cluster[begin:end], seed):
            _judge(vectors, members, centroids[number], threshold, keep, guarded, kept_instead, similarity)
    return SemanticDuplicates(kept_instead, similarity, cluster, centroids)


def _pieces(vectors: NDArray[np.float32], members: NDArray[np.int64], seed: int) -> Iterator[NDArray[np.int64]]:
    """A cluster, or where it is too large the clusters of it; equal vectors cannot be told apart and stay together."""
    if len(members) <= LARGEST:
        yield members
        return
    own = np.asarray(vectors[members])
    inside = assign(own, k_means(own, 2 * len(members) // LARGEST + 1, seed))
    sizes = np.bincount(inside)
    for number, size in enumerate(sizes.tolist()):
        if size > 0.9 * len(members):
            yield members[inside == number]
        elif size:
            yield from _pieces(vectors, members[inside == number], seed)


def _judge(
    vectors: NDArray[np.float32],
    members: NDArray[np.int64],
    centroid: NDArray[np.float32],
    threshold: float,
    keep: Keep,
    guarded: int,
    kept_instead: NDArray[np.uint32],
    similarity: NDArray[np.float32],
) -> None:
    """One cluster, from the first to be kept to the last: fill in those that are like one kept before."""
    if len(members) < 2:
        return
    to_centroid = np.concatenate(
        [
            np.round(normalised(vectors[members[at : at + _BLOCK]]) @ centroid, _DIGITS)
            for at in range(0, len(members), _BLOCK)
        ]
    )
    if keep == "near":
        to_centroid = -to_centroid
    members = members[np.lexsort((members, to_centroid, members >= guarded))]
    stay: list[NDArray[np.float32]] = []
    stay_rows: list[NDArray[np.int64]] = []
    for at in range(0, len(members), _KEPT_BLOCK):
        rows = members[at : at + _KEPT_BLOCK]
        own = normalised(vectors[rows])  # [B, d]
        best, best_row = np.full(len(rows), -2.0), np.zeros(len(rows), dtype=np.int64)
        for theirs, names in zip(stay, stay_rows, strict=True):
            cosines = np.round(own @ theirs.T, _DIGITS)
            place = cosines.argmax(axis=1)
            value = cosines[np.arange(len(rows)), place]
            better = value > best
            best[better], best_row[better] = value[better], names[place[better]]
        among = np.round(own @ own.T, _DIGITS)
        kept_here: list[int] = []
        for i in range(len(rows)):
            if kept_here:
                place = int(among[i, kept_here].argmax())
                if among[i, kept_here[place]] > best[i]:
                    best[i], best_row[i] = among[i, kept_here[place]], rows[kept_here[place]]
            if best[i] >= threshold and rows[i] >= guarded:
                kept_instead[rows[i]], similarity[rows[i]] = best_row[i], best[i]
            else:
                kept_here.append(i)
        if kept_here:
            stay.append(own[kept_here])
            stay_rows.append(rows[kept_here])


# ---- k-means by direction ------------------------------------------------------------------------------------------


def k_means(vectors: NDArray[np.float32], k: int, seed: int = 1, rounds: int = 10) -> NDArray[np.float32]:
    """float32 [<= k, d]: directions that many vectors are near to (spherical k-means, k-means++ beginnings).

    Learned from at most 64 vectors a centroid, drawn by the seed. Fewer than k where there are fewer different
    vectors.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    wanted = min(len(vectors), max(k * _SAMPLE, _BLOCK))
    drawn = np.sort(random.choice(len(vectors), wanted, replace=False)) if len(vectors) else np.empty(0, np.int64)
    sample = normalised(np.asarray(vectors[drawn]))
    if not np.isfinite(sample).all():
        raise UserError("there are vectors with numbers that are not finite", "look at what made them")
    sample = sample[sample.any(axis=1)]
    if not len(sample):
        return np.zeros((0, vectors.shape[1]), dtype=np.float32)
    centroids = _beginnings(sample, k, random)
    for _ in range(rounds):
        nearest = assign(sample, centroids)
        order = np.argsort(nearest, kind="stable")
        filled, first = np.unique(nearest[order], return_index=True)
        moved = centroids.copy()
        moved[filled] = normalised(np.add.reduceat(sample[order], first, axis=0, dtype=np.float64))
        if np.abs(moved - centroids).max() < 1e-4:
            break
        centroids = moved
    return centroids


def _beginnings(sample: NDArray[np.float32], k: int, random: np.random.Generator) -> NDArray[np.float32]:
    """k-means++: the next one is drawn with a probability that grows with the distance to those there are; of a few
    draws the one is taken that brings the sample nearest to its centroids."""
    chosen = [int(random.integers(len(sample)))]
    distance = _distances(sample, chosen)[:, 0]
    tries = 2 + int(np.log(k))
    while len(chosen) < k and (total := distance.sum()) > 0:
        drawn = np.searchsorted(np.cumsum(distance), random.random(tries) * total, side="right")
        drawn = np.minimum(drawn, len(sample) - 1)
        if not distance[drawn].any():
            drawn[0] = distance.argmax()
        after = np.minimum(distance[:, None], _distances(sample, drawn.tolist()))  # [S, tries]
        best = int(np.round(after.sum(axis=0), 3).argmin())
        chosen.append(int(drawn[best]))
        distance = after[:, best]
    return sample[chosen]


def _distances(sample: NDArray[np.float32], rows: list[int]) -> NDArray[np.float64]:
    """float64 [S, rows]: 1 - cosine, never below 0."""
    return np.maximum(1 - np.round(sample @ sample[rows].T, _DIGITS), 0).astype(np.float64)


def assign(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int32]:
    """int32 [D]: the nearest centroid of each vector, the first of equally near ones; -1 for rows of zeros."""
    out = np.full(len(vectors), -1, dtype=np.int32)
    for at in range(0, len(vectors) if len(centroids) else 0, _BLOCK):
        block = np.asarray(vectors[at : at + _BLOCK])
        nearest = np.round(block @ centroids.T, _DIGITS).argmax(axis=1)
        out[at : at + _BLOCK] = np.where(block.any(axis=1), nearest, -1)
    return out
