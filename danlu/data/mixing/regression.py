"""Which mixture, found by small runs: loss as a function of the weights, fitted, and the weights it likes best.

As in RegMix (Liu et al. 2024): train many small models on random mixtures, fit loss ~ weights, and take the mean of the
mixtures with the lowest predicted loss out of very many blends of those tried. The function is a ridge regression,

    linear      L = a + Σ b_g p_g
    quadratic   L = a + Σ b_g p_g + Σ c_gh p_g p_h        where there are at least twice as many runs as terms

because with a few dozen runs nothing richer can be told from noise. How far to trust it is part of the answer: each run
is predicted from the others, and the rank correlation of prediction and truth is given. Below some 0.7, do more runs.

Mixtures are drawn around the natural one (Dirichlet with the sizes as its mean), so that tests stay near what exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import UserError

_DRAWN, _BEST = 50_000, 64  # mixtures whose loss is predicted; how many of the best are averaged
_BLEND = 0.2  # of the Dirichlet that blends runs: small, so that most blends are of a few runs


def draw_mixtures(prior: Sequence[float], count: int, seed: int = 0, spread: float = 1.0) -> NDArray[np.float64]:
    """float64 [count, G], rows sum to 1: mixtures to train proxies on.

    `prior` [G]: shares to draw around. Half of `count` are close to it, half spread wide; `spread` scales both.
    """
    shares = np.array(prior, dtype=np.float64) / np.sum(prior)
    random = np.random.default_rng(seed)
    concentration = np.geomspace(0.5, 16.0, count) / spread * len(shares)
    drawn = np.stack([random.dirichlet(np.maximum(shares * one, 1e-3)) for one in concentration])
    return drawn / drawn.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Proposal:
    """`weights` by group, what loss is predicted for them, and how far predictions were right."""

    weights: dict[str, float]
    predicted: float
    best_seen: float
    rank_correlation: float  # Spearman's, each run predicted from the others; NaN with fewer than 3 runs
    form: str

    def to_json(self) -> dict[str, Any]:
        return {
            "weights": self.weights, "predicted": self.predicted, "best_seen": self.best_seen,
            "rank_correlation": self.rank_correlation, "form": self.form,
        }  # fmt: skip


def propose(
    runs: Sequence[tuple[dict[str, float], float]], seed: int = 0, ridge: float = 1e-3, form: str = ""
) -> Proposal:
    """The mixture that proxy runs speak for.

    `runs`: (weights by group, loss) of each; weights need not sum to 1, a missing group is 0. `form` "linear" or
    "quadratic"; by default the one that predicts left-out runs better. Raises UserError for too few runs.
    """
    names = sorted({name for weights, _ in runs for name in weights})
    if len(runs) < len(names) + 2:
        raise UserError(
            f"{len(runs)} runs do not say anything about {len(names)} groups", "at least two more than groups"
        )
    p = np.array([[weights.get(name, 0.0) for name in names] for weights, _ in runs], dtype=np.float64)
    if (p < 0).any() or not (p.sum(axis=1) > 0).all():
        raise UserError("weights must not be negative, and one of each run must be positive")
    p /= p.sum(axis=1, keepdims=True)
    losses = np.array([loss for _, loss in runs], dtype=np.float64)
    if not np.isfinite(losses).all():
        raise UserError("a loss is not a number", "leave runs that diverged out")
    possible = (
        [form] if form else [f for f in ("linear", "quadratic") if f == "linear" or len(runs) >= 2 * _terms(len(names))]
    )
    errors = {f: float(np.mean((_left_out(p, losses, f, ridge) - losses) ** 2)) for f in possible}
    best = min(errors, key=lambda f: errors[f])
    # Blends of what was tried, never beyond it: a line that is followed to the corner promises what no run has shown.
    drawn = np.random.default_rng(seed).dirichlet(np.full(len(p), _BLEND), _DRAWN) @ p
    predicted = _features(drawn, best) @ _fit(p, losses, best, ridge)
    chosen = drawn[np.argsort(predicted, kind="stable")[:_BEST]].mean(axis=0)
    return Proposal(
        {name: round(float(share), 4) for name, share in zip(names, chosen, strict=True)},
        float(_features(chosen[None], best)[0] @ _fit(p, losses, best, ridge)),
        float(losses.min()),
        spearman(_left_out(p, losses, best, ridge), losses),
        best,
    )


def _terms(groups: int) -> int:
    return groups + groups * (groups + 1) // 2


def _features(p: NDArray[np.float64], form: str) -> NDArray[np.float64]:
    """[R, G] -> [R, terms]. No constant: the shares sum to 1, so the linear terms hold it."""
    if form == "linear":
        return p
    i, j = np.triu_indices(p.shape[1])
    return np.concatenate([p, p[:, i] * p[:, j]], axis=1)


def _fit(p: NDArray[np.float64], losses: NDArray[np.float64], form: str, ridge: float) -> NDArray[np.float64]:
    """Ridge around the mean loss: with an endless penalty every mixture would be predicted average."""
    x, mean = _features(p, form), losses.mean()
    w = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (losses - mean))
    w[: p.shape[1]] += mean
    return w


def _left_out(p: NDArray[np.float64], losses: NDArray[np.float64], form: str, ridge: float) -> NDArray[np.float64]:
    """[R]: the loss of each run predicted from all others."""
    found = []
    for i in range(len(losses)):
        others = np.arange(len(losses)) != i
        found.append(float(_features(p[i : i + 1], form)[0] @ _fit(p[others], losses[others], form, ridge)))
    return np.array(found)


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Rank correlation, ties at their mean rank; NaN where one of them does not vary."""
    ranks = []
    for values in (a, b):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
        ranks.append(rank - rank.mean())
    norm = float(np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
    return float(ranks[0] @ ranks[1]) / norm if norm else float("nan")
