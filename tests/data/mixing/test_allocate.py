from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.data.mixing.allocate import allocate, natural_budget, shares_of, weights_of


def test_shares_by_hand() -> None:
    sizes = np.array([900, 100], dtype=np.int64)
    ones = np.ones(2)
    assert shares_of(ones, sizes, None, weighted=False).tolist() == pytest.approx([0.9, 0.1])
    assert shares_of(ones, sizes, 2.0, weighted=False).tolist() == pytest.approx([0.75, 0.25])  # 30 : 10
    assert shares_of(ones, sizes, 1e9, weighted=False).tolist() == pytest.approx([0.5, 0.5])
    assert shares_of(np.array([1.0, 3.0]), sizes, None, weighted=True).tolist() == [0.25, 0.75]
    assert shares_of(np.array([1.0, 3.0]), sizes, 1.0, weighted=True).tolist() == pytest.approx([0.75, 0.25])
    assert shares_of(ones, np.array([0, 5], dtype=np.int64), None, weighted=True).tolist() == [0.0, 1.0]


def test_weights_by_name_and_pattern() -> None:
    names = ["books/en", "web/en", "web/zh"]
    assert weights_of(names, {}).tolist() == [1, 1, 1]
    assert weights_of(names, {"web/*": 2, "*/zh": 3, "web/zh": 5}).tolist() == [0, 2, 5]
    with pytest.raises(UserError, match="web/en"):
        weights_of(names, {"web/e": 1})
    with pytest.raises(UserError):
        weights_of(names, {"*": 0})


def test_what_a_capped_group_cannot_give_goes_to_the_others() -> None:
    shares, caps = np.array([0.5, 0.3, 0.2]), np.array([10, 100, 100])
    assert allocate(shares, caps, 100).tolist() == [10, 54, 36]
    assert allocate(shares, caps, 10_000).tolist() == [10, 100, 100]
    assert allocate(np.array([0.5, 0.5]), np.array([9, 9]), 7).tolist() == [4, 3]
    assert natural_budget(np.array([0.5, 0.5]), np.array([30, 10])) == 20


_GROUP = st.tuples(st.floats(0, 100), st.integers(0, 10**12))


@given(st.lists(_GROUP, min_size=1, max_size=8), st.integers(0, 10**13))
def test_amounts_always_add_up(groups: list[tuple[float, int]], budget: int) -> None:
    weights = np.array([w for w, _ in groups])
    if not weights.sum() > 0:
        return
    caps = np.array([c for _, c in groups], dtype=np.int64)
    shares = weights / weights.sum()  # the smallest of all weights may be none as a share
    amounts = allocate(shares, caps, budget)
    assert (amounts >= 0).all() and (amounts <= caps).all() and not amounts[shares == 0].any()
    assert int(amounts.sum()) == min(budget, int(caps[shares > 0].sum()))
