from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.data.mixing.regression import draw_mixtures, propose, spearman


def runs(loss: object, count: int, noise: float = 0.0, groups: tuple[str, ...] = ("code", "web", "zh")) -> list:
    random = np.random.default_rng(3)
    mixtures = draw_mixtures([1.0] * len(groups), count)
    return [
        (dict(zip(groups, row.tolist(), strict=True)), loss(row) + noise * random.normal())
        for row in mixtures  # type: ignore[operator]
    ]


def test_a_minimum_inside_is_found() -> None:
    best = np.array([0.2, 0.5, 0.3])
    found = propose(runs(lambda p: 2.0 + ((p - best) ** 2).sum(), 40, noise=0.002))
    assert found.form == "quadratic" and found.rank_correlation > 0.9
    assert np.allclose([found.weights[g] for g in ("code", "web", "zh")], best, atol=0.06)
    assert found.predicted < found.best_seen + 0.01 and sum(found.weights.values()) == pytest.approx(1, abs=1e-3)


def test_few_runs_are_fitted_by_a_line() -> None:
    tried = runs(lambda p: 3.0 - p[2], 8)
    found = propose(tried)
    most = max(weights["zh"] for weights, _ in tried)
    assert found.form == "linear" and found.rank_correlation == 1.0
    assert most - 0.05 < found.weights["zh"] <= most and found.predicted >= found.best_seen - 0.01  # nothing untried


def test_noise_is_not_mistaken_for_knowledge() -> None:
    found = propose(runs(lambda p: 2.0, 30, noise=0.1))
    assert found.rank_correlation < 0.6


def test_mistakes() -> None:
    for bad in ([({"a": 1.0}, 1.0)], [({"a": 1.0, "b": 1.0}, float("nan"))] * 5, [({"a": -1.0, "b": 1.0}, 1.0)] * 5):
        with pytest.raises(UserError):
            propose(bad)


def test_mixtures_are_drawn_around_what_exists() -> None:
    drawn = draw_mixtures([8.0, 2.0], 400)
    assert drawn.shape == (400, 2) and np.allclose(drawn.sum(axis=1), 1) and (drawn >= 0).all()
    assert abs(drawn[:, 0].mean() - 0.8) < 0.06
    assert np.array_equal(drawn, draw_mixtures([8.0, 2.0], 400))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_rank_correlation_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0])
    else:
        assert np.isnan(spearman(a, b))
