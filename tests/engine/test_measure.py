"""Speeds from arrivals: worked by hand, against NumPy, and with the real engine."""

from __future__ import annotations

import numpy as np
import pytest

from danlu.engine import Engine
from danlu.engine.measure import EnginePlayer, Job, Trace, percentiles, play, throughput
from tests.engine.models import greedy, model_of, random_prompt


def test_a_trace_by_hand() -> None:
    trace = Trace(prompt_tokens=10, submitted=1.0, tokens=[5, 6, 7], arrived=[3.0, 3.5, 4.5])
    assert trace.ttft == 2.0 and trace.gaps == [0.5, 1.0]
    assert trace.prefill_rate == 5.0 and trace.decode_rate == pytest.approx(2 / 1.5)
    assert throughput([trace, Trace(1, 0.0, [1], [6.0])]) == pytest.approx(4 / 6)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
def test_percentiles_are_numpys(count: int) -> None:
    values = list(np.random.default_rng(count).random(count))
    expected = np.percentile(values, [50, 90, 99])
    assert list(percentiles(values).values()) == pytest.approx(list(expected))


def test_the_engine_plays_and_its_tokens_are_the_oracles() -> None:
    model = model_of("gqa")
    prompts = [random_prompt(n, seed=n) for n in (3, 20, 7)]
    seen: list[int] = []
    player = EnginePlayer(Engine((model, None), max_batch_tokens=8))
    jobs = [Job(prompt, new) for prompt, new in zip(prompts, (5, 1, 9), strict=True)]
    traces = play(player, jobs, lambda traces: seen.append(sum(len(trace.tokens) for trace in traces)))
    for trace, job in zip(traces, jobs, strict=True):
        assert trace.tokens == greedy(model, job.prompt, job.new) and trace.prompt_tokens == len(job.prompt)
        assert trace.submitted <= trace.arrived[0] and trace.arrived == sorted(trace.arrived)
    assert seen == sorted(seen) and seen[-1] == 15
    assert not player.engine.has_work


def test_a_late_job_comes_when_the_first_has_made_its_tokens() -> None:
    player = EnginePlayer(Engine((model_of("gqa"), None)))
    first, late = play(player, [Job(random_prompt(4), 10), Job(random_prompt(6), 2, after=6)])
    assert first.submitted == pytest.approx(0, abs=0.01)
    assert first.arrived[5] <= late.submitted <= first.arrived[6]


def test_a_model_that_gives_nan_ends_the_play() -> None:
    import copy

    import torch

    from danlu.core.errors import DanluError

    broken = copy.deepcopy(model_of("gqa"))
    with torch.no_grad():
        broken.norm.weight.fill_(float("nan"))
    with pytest.raises(DanluError, match="not a number"):
        play(EnginePlayer(Engine((broken, None))), [Job([1, 2, 3], 4)])
