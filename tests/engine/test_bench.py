"""`danlu bench` from the inside: sizes, figures that hang together, and the live view."""

from __future__ import annotations

import pytest

from danlu.core.errors import UserError
from danlu.engine import Engine
from danlu.engine.bench import BenchPlan, Moment, bench
from danlu.engine.limits import Machine
from tests.engine.models import CONTEXT, model_of

MACHINE = Machine(bandwidth=1e10, products={"float32": 1e11, "bfloat16": 2e11})


@pytest.mark.parametrize("context", [CONTEXT, 256, 8192])
def test_sizes_that_nobody_gave_fit_the_context(context: int) -> None:
    plan = BenchPlan.fit(context, None, None, 8, 3)
    assert plan.prompt_tokens + plan.max_tokens <= context and plan.max_tokens >= 2
    assert context < 8192 or (plan.prompt_tokens, plan.max_tokens) == (512, 128)


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ((65, None, 1, 1), "do not fit the context of 64"),
        ((60, 5, 1, 1), "a prompt of 60 tokens and an answer of 5 do not fit"),
        ((0, None, 1, 1), "prompt tokens is 0"),
        ((8, 1, 1, 1), "max tokens is 1"),
        ((8, 8, 0, 1), "concurrency is 0"),
        ((8, 8, 1, 0), "rounds is 0"),
        ((10**12, None, 1, 1), f"a prompt of {10**12} tokens and an answer of 2 do not fit the context of 64"),
        ((None, 10**12, 1, 1), f"an answer of {10**12} do not fit the context of 64"),
        ((8, 8, 10**12, 1), f"concurrency is {10**12}. it must be from 1 to 1,024"),
        ((8, 8, 1, 10**12), f"rounds is {10**12}. it must be from 1 to 1,000"),
    ],
)
def test_sizes_that_cannot_be(sizes: tuple[int, int, int, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        BenchPlan.fit(64, *sizes)


def test_the_figures_hang_together() -> None:
    engine = Engine((model_of("gqa"), None))
    moments: list[Moment] = []
    result = bench(engine, BenchPlan(24, 16, 3, 2), MACHINE, moments.append)
    for part in (result["prefill"], result["decode"]):
        rates = part["tokens_per_second"]
        assert 0 < rates["low"] <= rates["median"] <= rates["high"]
        assert part["share"] == pytest.approx(rates["median"] / part["limit"])
    context = 24 + 16 / 2
    expected = MACHINE.bandwidth / (result["bytes"]["weights"] + context * result["bytes"]["kv_per_token"])
    assert result["decode"]["limit"] == pytest.approx(expected)
    gaps = result["gap_seconds"]
    assert 0 < gaps["p50"] <= gaps["p90"] <= gaps["p99"]
    assert result["concurrent"]["requests"] == 3
    stats = engine.stats
    assert stats.generated_tokens == 2 + 2 * (16 + 3 * 16), "a warm-up of two tokens, and all rounds"
    assert stats.prefix_hits == 0, "no prompt may have been known"
    assert [moment.phase for moment in moments if moment.tokens_per_second is None] == ["prefill", "concurrent"] * 2
    assert moments[-1].total == 4 and moments[-1].done == 3


def test_one_at_a_time_has_no_concurrent_part() -> None:
    result = bench(Engine((model_of("gqa"), None)), BenchPlan(8, 4, 1, 1), MACHINE)
    assert result["concurrent"] is None


def test_requests_that_do_not_fit_the_cache_are_refused() -> None:
    model = model_of("gqa")
    small = Engine((model, None), kv_bytes=2 * 16 * Engine((model, None)).cache.shape.bytes_per_token)
    with pytest.raises(UserError, match="KV cache"):
        bench(small, BenchPlan(40, 8, 1, 1), MACHINE)
