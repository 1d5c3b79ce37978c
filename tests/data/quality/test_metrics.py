from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.quality.metrics import confusion, folds, judge, rates, roc_auc

sklearn = pytest.importorskip("sklearn.metrics")
_ROWS = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.7, 0.9])), min_size=2, max_size=40)


@given(_ROWS)
def test_rates_are_those_of_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    good, scores = np.array([g for g, _ in rows]), np.array([s for _, s in rows])
    if good.all() or not good.any():
        assert np.isnan(roc_auc(good, scores))
        return
    called = scores >= 0.5
    ours = rates(good, scores)
    assert ours["roc_auc"] == pytest.approx(sklearn.roc_auc_score(good, scores))
    for name, theirs in (
        ("precision", sklearn.precision_score),
        ("recall", sklearn.recall_score),
        ("f1", sklearn.f1_score),
    ):
        assert ours[name] == pytest.approx(theirs(good, called, zero_division=0))
    table = sklearn.confusion_matrix(good, called, labels=[False, True]).ravel().tolist()
    ours_table = confusion(good, called)
    assert [ours_table[k] for k in ("true_negative", "false_positive", "false_negative", "true_positive")] == table


def test_intervals_hold_the_value_and_shrink_with_more_documents() -> None:
    random = np.random.default_rng(0)
    widths = []
    for n in (50, 2_000):
        good = random.random(n) < 0.5
        judged = judge(good, np.where(good, 0.6, 0.4) + random.normal(0, 0.3, n))
        auc = judged["roc_auc"]
        assert auc["low"] <= auc["value"] <= auc["high"]
        widths.append(auc["high"] - auc["low"])
    assert widths[1] < widths[0] / 3


def test_copies_are_in_one_fold() -> None:
    found = folds([f"text {i % 100}" for i in range(200)], 5)
    assert (found[:100] == found[100:]).all() and set(found.tolist()) == set(range(5))
