"""Trained quality: is this text more like the good examples or more like the bad ones?

Three models over the same hashed runs of units (`features`), one door:

    logistic   p = 1 / (1 + exp(-(w·x + b))), mean log loss + (l2/2)|w|^2 minimised by L-BFGS: convex, so one answer
    bayes      multinomial naive Bayes: w_b = log of the smoothed ratio of how often each class uses bucket b; one pass
    forest     a random forest of scikit-learn (extra `ml`); taken apart into arrays, so that scoring needs numpy alone

Linear ones score by one look-up a run, as fastText does, and are what FineWeb-Edu-like filters need; the forest is
there to see whether more than a line would help. A saved model is two files that nobody has to trust: classifier.json
(what it is) and classifier.safetensors (its numbers). Nothing is pickled.

    model = train("logistic", texts, labels)       model.save(folder)       Classifier.load(folder).scores(texts)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from danlu.core.artifact import read_json, write_json
from danlu.core.errors import UserError, need
from danlu.data.quality.features import Rows, featurize

Kind = Literal["logistic", "bayes", "forest"]
WIDTHS = {"logistic": 1 << 18, "bayes": 1 << 18, "forest": 1 << 12}
_BATCH = 256  # texts featurized at once
_FILES = ("classifier.json", "classifier.safetensors")


@dataclass(frozen=True)
class Classifier:
    """A trained model. `arrays`: weights [width] and bias [1], or the nodes of a forest."""

    kind: Kind
    width: int
    arrays: dict[str, NDArray[Any]]

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [D]: the probability that each text is good; 0.5 and the like for a text without units."""
        found = [np.empty(0, np.float32)]
        for start in range(0, len(texts), _BATCH):
            found.append(self.scores_of(featurize(texts[start : start + _BATCH], self.width)))
        return np.concatenate(found)

    def scores_of(self, rows: Rows) -> NDArray[np.float32]:
        """`scores` of texts that are featurized already."""
        if self.kind == "forest":
            return _forest_scores(self.arrays, rows)
        return _sigmoid(rows.dot(self.arrays["weights"]) + float(self.arrays["bias"][0])).astype(np.float32)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        write_json(folder / _FILES[0], {"kind": self.kind, "width": self.width, "version": 1})
        save_file({name: np.ascontiguousarray(a) for name, a in self.arrays.items()}, folder / _FILES[1])

    @classmethod
    def load(cls, folder: Path | str) -> Classifier:
        """Raises UserError when there is no classifier or it is damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        hint = "data.train_classifier makes one"
        about = read_json(Path(folder) / _FILES[0], hint)
        try:
            arrays = load_file(Path(folder) / _FILES[1])
        except (OSError, SafetensorError) as error:
            raise UserError(f"{Path(folder) / _FILES[1]} cannot be read ({error})", hint) from None
        if about.get("kind") not in TRAINERS or about.get("version") != 1:
            raise UserError(f"{folder} holds a classifier that this danlu does not know: {json.dumps(about)}", hint)
        return cls(about["kind"], int(about["width"]), arrays)


def train(kind: Kind, texts: Sequence[str], labels: Sequence[bool], **options: Any) -> Classifier:
    """Fit a model on texts and whether each is good. Raises UserError when one of the classes is missing."""
    rows = featurize(texts, WIDTHS[kind])
    return train_on(kind, rows, np.array(labels, dtype=bool), **options)


def train_on(kind: Kind, rows: Rows, good: NDArray[np.bool_], **options: Any) -> Classifier:
    """`train` of texts that are featurized already, to the width of `WIDTHS`."""
    if good.all() or not good.any():
        raise UserError("a classifier needs good and bad examples", f"all {len(good)} are of one kind")
    return Classifier(kind, rows.width, TRAINERS[kind](rows, good, **options))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


# ---- logistic regression ---------------------------------------------------------------------------------------------


def _logistic(
    rows: Rows, good: NDArray[np.bool_], l2: float | None = None, balanced: bool = True
) -> dict[str, NDArray[Any]]:
    """`l2`: 1 / D by default. `balanced`: both classes weigh the same, however many examples each has."""
    penalty = 1.0 / len(good) if l2 is None else l2
    used, buckets = np.unique(rows.buckets, return_inverse=True)  # most buckets are never seen: fit the others
    x = Rows(rows.indptr, buckets.astype(np.int64), rows.values, len(used))
    sign = np.where(good, 1.0, -1.0)
    shares = np.where(good, 0.5 / good.sum(), 0.5 / (~good).sum()) if balanced else np.full(len(good), 1 / len(good))

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = sign * (x.dot(w[:-1]) + w[-1])
        value = float(shares @ np.logaddexp(0.0, -margin)) + 0.5 * penalty * float(w[:-1] @ w[:-1])
        pull = -sign * shares * _sigmoid(-margin)  # d loss / d logit, [D]
        return value, np.append(x.back(pull) + penalty * w[:-1], pull.sum())

    w = minimise(loss, np.zeros(x.width + 1))
    weights = np.zeros(rows.width, dtype=np.float32)
    weights[used] = w[:-1]
    return {"weights": weights, "bias": w[-1:].astype(np.float32)}


def minimise(
    function: Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]],
    x: NDArray[np.float64],
    steps: int = 100,
    tolerance: float = 1e-5,
    memory: int = 8,
) -> NDArray[np.float64]:
    """L-BFGS (Nocedal & Wright, algorithm 7.5) with backtracking, for smooth convex functions.

    `function` gives value and gradient. Ends when the largest gradient is below `tolerance`.
    """
    value, gradient = function(x)
    past: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []  # (step, change of gradient)
    for _ in range(steps):
        if np.abs(gradient).max() < tolerance:
            break
        direction, kept = -gradient, []
        for step, change in reversed(past):
            alpha = _dot(step, direction) / _dot(step, change)
            direction = direction - alpha * change
            kept.append(alpha)
        if past:
            step, change = past[-1]
            direction = direction * (_dot(step, change) / _dot(change, change))
        for (step, change), alpha in zip(past, reversed(kept), strict=True):
            direction = direction + (alpha - _dot(change, direction) / _dot(step, change)) * step
        slope, size = _dot(gradient, direction), 1.0
        for _ in range(30):
            new_value, new_gradient = function(x + size * direction)
            if new_value <= value + 1e-4 * size * slope:
                break
            size *= 0.5
        else:
            break
        step, change = size * direction, new_gradient - gradient
        if _dot(step, change) > 1e-12:
            past = [*past[-memory + 1 :], (step, change)]
        x, value, gradient = x + step, new_value, new_gradient
    return x


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.einsum("i,i->", a, b))  # no BLAS: its threads cost more than they help, and sum in another order


# ---- naive Bayes -----------------------------------------------------------------------------------------------------


def _bayes(rows: Rows, good: NDArray[np.bool_], alpha: float = 0.01, balanced: bool = True) -> dict[str, NDArray[Any]]:
    logs = []
    for one in (good, ~good):
        mass = rows.back(one.astype(np.float64)) + alpha
        logs.append(np.log(mass / mass.sum()))
    prior = 0.0 if balanced else float(np.log(good.sum() / (~good).sum()))
    return {"weights": (logs[0] - logs[1]).astype(np.float32), "bias": np.array([prior], dtype=np.float32)}


# ---- random forest ---------------------------------------------------------------------------------------------------


def _forest(
    rows: Rows, good: NDArray[np.bool_], trees: int = 100, depth: int = 16, seed: int = 0, balanced: bool = True
) -> dict[str, NDArray[Any]]:
    """All trees end to end: `left` and `right` are positions, a leaf points to itself, trees begin at `roots`."""
    ensemble = need("sklearn.ensemble", "ml")
    sparse = need("scipy.sparse", "ml")
    weight = "balanced" if balanced else None
    forest = ensemble.RandomForestClassifier(trees, max_depth=depth, random_state=seed, class_weight=weight, n_jobs=1)
    forest.fit(sparse.csr_matrix((rows.values, rows.buckets, rows.indptr), shape=(len(rows), rows.width)), good)
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in ("feature", "threshold", "left", "right", "value")}
    roots, offset = [], 0
    for tree in (estimator.tree_ for estimator in forest.estimators_):
        here = np.arange(tree.node_count)
        leaf = tree.children_left < 0
        parts["feature"].append(np.where(leaf, 0, tree.feature).astype(np.int32))
        parts["threshold"].append(tree.threshold.astype(np.float32))
        parts["left"].append((np.where(leaf, here, tree.children_left) + offset).astype(np.int32))
        parts["right"].append((np.where(leaf, here, tree.children_right) + offset).astype(np.int32))
        share = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True)
        parts["value"].append(share[:, 1].astype(np.float32))
        roots.append(offset)
        offset += tree.node_count
    arrays: dict[str, NDArray[Any]] = {name: np.concatenate(part) for name, part in parts.items()}
    return arrays | {"roots": np.array(roots, dtype=np.int32), "depth": np.array([depth], dtype=np.int32)}


def _forest_scores(arrays: dict[str, NDArray[Any]], rows: Rows) -> NDArray[np.float32]:
    x = rows.dense()  # [D, width]
    at = np.tile(arrays["roots"], (len(rows), 1))  # [D, T]
    document = np.arange(len(rows))[:, None]
    for _ in range(int(arrays["depth"][0])):
        goes_left = x[document, arrays["feature"][at]] <= arrays["threshold"][at]
        at = np.where(goes_left, arrays["left"][at], arrays["right"][at])
    return arrays["value"][at].mean(axis=1, dtype=np.float64).astype(np.float32)


TRAINERS: dict[str, Callable[..., dict[str, NDArray[Any]]]] = {
    "logistic": _logistic,
    "bayes": _bayes,
    "forest": _forest,
}
