"""Schedules are pure functions of progress; horizons end on the nearest step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.train.schedule import Horizon, Schedule, ScheduleName, Spent


@pytest.mark.parametrize("name", ["cosine", "wsd", "constant"])
def test_shape(name: ScheduleName) -> None:
    schedule = Schedule(name, warmup=0.1, decay=0.2, final=0.1)
    assert schedule(0.0) == 0.0
    assert schedule(0.05) == pytest.approx(0.5)
    assert schedule(0.1) == pytest.approx(1.0)
    assert schedule(1.0) == pytest.approx(1.0 if name == "constant" else 0.1)


def test_worked_examples() -> None:
    assert Schedule("wsd", warmup=0.0, decay=0.5, final=0.0)(0.75) == pytest.approx(0.5)
    assert Schedule("wsd", warmup=0.0, decay=0.5)(0.49) == 1.0
    assert Schedule("cosine", warmup=0.0, final=0.0)(0.5) == pytest.approx(0.5)


@given(st.sampled_from(["cosine", "wsd", "constant"]), st.floats(-1, 2), st.floats(0, 0.5), st.floats(0.01, 0.5))
def test_always_between_zero_and_one(name: ScheduleName, progress: float, warmup: float, decay: float) -> None:
    assert 0.0 <= Schedule(name, warmup, decay)(progress) <= 1.0


@given(st.integers(1, 500), st.integers(1, 1000))
def test_token_budget_ends_on_nearest_step(amount: int, step: int) -> None:
    horizon, spent = Horizon("tokens", amount), Spent()
    while not horizon.over(spent):
        spent.add(tokens=step, flops=1.0)
        spent.learn_cost(step)
    assert abs(spent.tokens - amount) <= step / 2 or spent.steps == 1


def test_step_budget_is_exact_and_never_zero() -> None:
    horizon, spent, factors = Horizon("steps", 10), Spent(), []
    while not horizon.over(spent):
        factors.append(Schedule("wsd", warmup=0.2, decay=0.2)(horizon.middle(spent, 1)))
        spent.add(tokens=1, flops=1.0)
    assert len(factors) == 10
    assert factors == pytest.approx([0.25, 0.75, 1, 1, 1, 1, 1, 1, 0.75, 0.25])


def test_clock_budget() -> None:
    horizon, spent = Horizon("seconds", 60), Spent(steps=5, seconds=58.0, cost=3.0)
    assert not horizon.over(spent)
    assert horizon.over(Spent(steps=5, seconds=58.0, cost=5.0))
    assert horizon.middle(spent, 3.0) == pytest.approx(59.5 / 60)
