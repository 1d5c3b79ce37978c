"""Many noisy voters, one label: majority, and the model of Dawid and Skene (1979).

Votes are a matrix [D, V] of classes 0 .. K-1, ABSTAIN (-1) where a voter says nothing. Majority counts every voter the
same. Dawid and Skene let each voter v have a confusion matrix, P(v says l | truth is k), and find truth and matrices
together by expectation-maximisation:

    E   P(truth of d is k) ∝ prior_k · Π_v P(v says votes[d, v] | k)       over voters who spoke
    M   prior and matrices from those probabilities, every count raised by SMOOTH on the diagonal and a little off it

starting from the majority. A voter who is right seven times in ten then counts for less than one who always is, without
anybody knowing the truth. An abstention says nothing about the class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ABSTAIN = -1
# The belief that a voter is better than chance, as votes it had cast before: without it, the label that few rules
# speak for is explained away by calling its voters wrong. Not tuned.
_SMOOTH_RIGHT, _SMOOTH_WRONG = 5.0, 1.0


@dataclass(frozen=True)
class Labels:
    """`probabilities` float64 [D, K]; `confusion` float64 [V, K, K], rows the truth; documents nobody voted on are
    `unlabelled` bool [D], their probabilities the prior."""

    probabilities: NDArray[np.float64]
    confusion: NDArray[np.float64]
    unlabelled: NDArray[np.bool_]

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [D]: the likeliest class, ABSTAIN where nobody voted; of equals the smaller."""
        return np.where(self.unlabelled, ABSTAIN, self.probabilities.argmax(axis=1))


def majority(votes: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """float64 [D, K]: the share of each class among the votes of a document, equal shares where there are none."""
    counts = np.stack([(votes == k).sum(axis=1) for k in range(classes)], axis=1).astype(np.float64)
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), 1.0 / classes)


def dawid_skene(votes: NDArray[np.int64], classes: int, steps: int = 100, tolerance: float = 1e-6) -> Labels:
    """Fit the model; `votes` int64 [D, V]."""
    spoken = votes != ABSTAIN
    truth = majority(votes, classes)
    heard = spoken.any(axis=1)
    one_hot = np.stack([votes == k for k in range(classes)], axis=2).astype(np.float64)  # [D, V, K]
    smooth = np.full((classes, classes), _SMOOTH_WRONG) + np.eye(classes) * (_SMOOTH_RIGHT - _SMOOTH_WRONG)
    confusion = np.tile(np.eye(classes), (votes.shape[1], 1, 1))
    for _ in range(steps):
        prior = truth[heard].sum(axis=0) + 1.0
        prior /= prior.sum()
        confusion = np.einsum("dk,dvl->vkl", truth[heard], one_hot[heard]) + smooth
        confusion /= confusion.sum(axis=2, keepdims=True)
        logs = np.log(prior) + np.einsum("dvl,vkl->dk", one_hot, np.log(confusion))
        new = np.exp(logs - logs.max(axis=1, keepdims=True))
        new /= new.sum(axis=1, keepdims=True)
        moved, truth = float(np.abs(new - truth).max()), new
        if moved < tolerance:
            break
    return Labels(truth, confusion, ~heard)
