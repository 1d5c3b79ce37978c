"""The derivation of a plan, by hand and as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.train.scaling import flops_of_budget, plan


def test_worked_example_of_the_docstring() -> None:
    made = plan(1e15, vocab_size=4096, context=256)
    assert made.parameters == pytest.approx(2.9e6, rel=0.5)
    assert made.batch_tokens == pytest.approx(23_500, rel=0.01) and made.learning_rate == 0.0042
    assert made.tokens * 6 * made.parameters == pytest.approx(1e15, rel=0.01)


@given(st.floats(1e10, 1e22), st.sampled_from([300, 4096, 32768, 151936]), st.integers(10_000, 10**12))
def test_any_budget_gives_a_plan_that_fits(flops: float, vocab_size: int, available: int) -> None:
    made = plan(flops, vocab_size=vocab_size, context=256, available_tokens=available)
    shape = made.model
    assert shape["hidden_size"] == shape["n_heads"] * shape["head_dim"]
    assert made.batch_tokens >= 256 and made.batch_tokens % 256 == 0
    assert 1e-4 <= made.learning_rate <= 1e-2
    assert 6 * made.parameters * made.tokens <= 1.01 * flops


def test_little_text_buys_a_larger_model() -> None:
    rich = plan(1e16, vocab_size=4096, context=256)
    poor = plan(1e16, vocab_size=4096, context=256, available_tokens=10_000_000)
    assert poor.parameters > rich.parameters and poor.tokens <= 4 * 10_000_000


def test_budgets() -> None:
    assert flops_of_budget("flops", 5.0, peak_flops=1.0) == 5.0
    assert flops_of_budget("seconds", 10.0, peak_flops=1e9) == 4e9
    assert flops_of_budget("tokens", 2e6, peak_flops=1.0) == pytest.approx(1.2e12)
    assert flops_of_budget("steps", 10.0, peak_flops=1.0) is None
