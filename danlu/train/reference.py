"""Is my loss normal? The band that past runs of the same recipe reached.

``danlu/recipes/bands.json`` holds what finished runs ended at, by the name a recipe gives in ``reference:``

    {"quickstart.base": {
        "model": {"vocab_size": 4096, "parameters": 3408128, "context": 256},
        "margin": 0.03,
        "points": [{"tokens": 400000, "low": 4.91, "high": 4.98, "runs": 3},
                   {"tokens": 1600000, "low": 3.80, "high": 3.84, "runs": 3}]}}

It is written by ``bench/bands.py`` from real runs with several seeds, and by nothing else.

What is compared with what. Two runs are comparable at equal *tokens*, not at equal time (machines differ) and not at
an equal step in the middle (a run whose learning rate has not yet decayed stands higher than one that ended there).
So a point of the band is the final validation loss of runs that were planned to end at that many tokens. Between two
points the band is a straight line in log(tokens), log(loss), since loss falls about as a power of data (Kaplan et al.,
arXiv:2001.08361, section 1.2). Outside the points, or for another model shape, there is no reference, and the report
says so instead of guessing. ``margin`` widens the band on both sides as a share of the loss: the source text of a
recipe such as Python's own library differs a little between interpreters.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from importlib.resources import files
from itertools import pairwise
from typing import Any, Literal

Verdict = Literal["inside", "above", "below", "no reference yet"]


@dataclass(frozen=True)
class Comparison:
    """verdict, the band [low, high] it was judged by (None without a reference) and one sentence for a person."""

    verdict: Verdict
    low: float | None
    high: float | None
    text: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_bands() -> dict[str, Any]:
    """All bands that ship with danlu; empty when there are none."""
    path = files("danlu").joinpath("recipes", "bands.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def compare(
    name: str, loss: float | None, tokens: int, model: dict[str, Any], bands: dict[str, Any] | None = None
) -> Comparison:
    """Judge a final validation loss. ``model`` says what must be equal: vocab_size, parameters, context."""
    bands = read_bands() if bands is None else bands
    if not name or name not in bands:
        return _none("no past runs are on record for this recipe")
    if loss is None:
        return _none("this run has no validation loss to compare")
    entry = bands[name]
    for key, value in entry["model"].items():
        if model.get(key) != value:
            return _none(f"past runs of {name} had {key} {value}, this one has {model.get(key)}")
    points = sorted(entry["points"], key=lambda point: point["tokens"])
    first, last = points[0]["tokens"], points[-1]["tokens"]
    if not 0.95 * first <= tokens <= 1.05 * last:  # a wall clock does not end on a round number
        return _none(f"past runs of {name} ended at {first:,} to {last:,} tokens, this one at {tokens:,}")
    margin = entry["margin"]
    low = _interpolate(points, "low", tokens) * (1 - margin)
    high = _interpolate(points, "high", tokens) * (1 + margin)
    verdict: Verdict = "inside" if low <= loss <= high else "above" if loss > high else "below"
    meaning = {"inside": "normal", "above": "worse than expected", "below": "better than expected"}[verdict]
    text = f"validation loss {loss:.3f} is {verdict} the band {low:.3f} to {high:.3f} of past runs: {meaning}"
    return Comparison(verdict, round(low, 4), round(high, 4), text)


def _interpolate(points: list[dict[str, Any]], key: str, tokens: float) -> float:
    if len(points) == 1:
        return float(points[0][key])
    pairs = list(pairwise(points))
    a, b = next(((a, b) for a, b in pairs if tokens <= b["tokens"]), pairs[-1])
    along = math.log(tokens / a["tokens"]) / math.log(b["tokens"] / a["tokens"])
    return math.exp(math.log(a[key]) + along * (math.log(b[key]) - math.log(a[key])))


def _none(reason: str) -> Comparison:
    return Comparison("no reference yet", None, None, f"no reference yet: {reason}")
