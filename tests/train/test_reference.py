"""Bands: judged at equal tokens, silent where there is nothing to judge by."""

from __future__ import annotations

import math
from typing import Any

import pytest

from danlu.train.reference import compare, read_bands

MODEL = {"vocab_size": 100, "parameters": 1000, "context": 16}
BANDS: dict[str, Any] = {
    "toy": {
        "model": MODEL,
        "margin": 0.0,
        "points": [
            {"tokens": 100, "low": 4.0, "high": 5.0, "runs": 3},
            {"tokens": 10000, "low": 1.0, "high": 2.0, "runs": 3},
        ],
    }
}


@pytest.mark.parametrize(
    ("loss", "tokens", "verdict"),
    [(4.5, 100, "inside"), (5.1, 100, "above"), (3.9, 100, "below"), (2.5, 1000, "inside"), (1.9, 1000, "below")],
)
def test_verdicts(loss: float, tokens: int, verdict: str) -> None:
    assert compare("toy", loss, tokens, MODEL, BANDS).verdict == verdict


def test_between_points_it_is_straight_in_logarithms() -> None:
    found = compare("toy", 2.5, 1000, MODEL, BANDS)
    assert (found.low, found.high) == (pytest.approx(2.0), pytest.approx(math.sqrt(10), abs=1e-4))


@pytest.mark.parametrize(
    ("name", "loss", "tokens", "model", "why"),
    [
        ("", 1.0, 100, MODEL, "no past runs"),
        ("other", 1.0, 100, MODEL, "no past runs"),
        ("toy", None, 100, MODEL, "no validation loss"),
        ("toy", 1.0, 50, MODEL, "ended at 100 to 10,000"),
        ("toy", 1.0, 100, {**MODEL, "parameters": 7}, "had parameters 1000"),
    ],
)
def test_no_reference_says_why(name: str, loss: float | None, tokens: int, model: dict[str, Any], why: str) -> None:
    found = compare(name, loss, tokens, model, BANDS)
    assert found.verdict == "no reference yet" and why in found.text and found.low is None


def test_margin_widens() -> None:
    wide = {"toy": {**BANDS["toy"], "margin": 0.1}}
    assert compare("toy", 5.4, 100, MODEL, wide).verdict == "inside"


def test_shipped_bands_are_well_formed() -> None:
    for entry in read_bands().values():
        assert set(entry) >= {"model", "margin", "points"}
        assert all(0 < p["low"] <= p["high"] and p["runs"] >= 2 for p in entry["points"])
