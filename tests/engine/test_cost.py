from __future__ import annotations

import random

import pytest

from danlu.engine.cost import AGE, FLOOR, PromptShare, StepCost
from danlu.engine.detokenize import TextStream
from danlu.engine.kv_cache import CacheShape, KVCache
from danlu.engine.request import Request, Sampling, Sequence
from danlu.engine.scheduler import Scheduler, Step


def test_cost_of_a_size_that_was_not_seen_lies_between_its_neighbours() -> None:
    cost = StepCost()
    assert cost(3) == 0
    cost.observe(2, 1.0)
    assert cost(1) == 1.0 and cost(2) == 1.0 and cost(4) == 2.0
    cost.observe(10, 5.0)
    assert cost(6) == pytest.approx(3.0)
    cost.observe(2, 100.0)  # the machine was away
    assert cost(2) == pytest.approx(1.1)


# --- prompts beside answers -------------------------------------------------------------------------------------------


def sequence(n_prompt: int, max_length: int = 4000) -> Sequence:
    prompt = [0] * n_prompt
    return Sequence(Request("", prompt, Sampling()), 0, list(prompt), max_length, TextStream(None))


def decoding(count: int) -> Step:
    return [(sequence(1), 1) for _ in range(count)]


def measured(rows: int = 9, alone: float = 0.010, token: float = 0.0005) -> PromptShare:
    """A share that has seen the worked example of the docstring."""
    share = PromptShare(stall=2)
    share.observe(decoding(rows), alone)
    for _ in range(AGE - 1):
        share.observe([*decoding(rows), (sequence(100), 20)], alone + 20 * token)
    share.observe(decoding(rows), alone)
    return share


def test_the_worked_example() -> None:
    share = measured()
    assert share(9, 1) == pytest.approx(20, rel=0.01)
    assert share(9, 3) == pytest.approx(20, rel=0.01), "three have no more than one beside nine"
    assert share(9, 12) == pytest.approx(80, rel=0.01)
    assert measured(token=0.01)(9, 1) == FLOOR, "prompts always go on"


def test_a_step_without_prompts_is_asked_for_where_none_was_seen_lately() -> None:
    share = PromptShare(stall=2)
    assert share(1, 5) == 0
    share.observe(decoding(1), 0.01)
    assert share(1, 5) > 0 and share(2, 5) > 0
    assert share(3, 5) == 0, "of steps with three rows nothing is known"
    for _ in range(AGE):
        assert share(1, 5) > 0
        share.observe([*decoding(1), (sequence(100), 8)], 0.02)
    assert share(1, 5) == 0
    share.observe(decoding(1), 0.01)
    assert share(1, 5) > 0


def test_the_first_prompt_beside_others_is_judged_by_those_that_were_read_alone() -> None:
    """A GPU answers at once where nothing is sampled; the step that samples waits for all before it."""
    share = PromptShare(stall=2)
    long = sequence(600)
    for n, seconds in ((250, 0.001), (250, 0.001), (100, 0.298)):
        long.computed += n
        if long.computed == 600:
            long.tokens.append(0)
        share.observe([(long, n)], seconds)
    share.observe(decoding(4), 0.02)
    assert share(4, 1) == pytest.approx(40)


def test_one_stolen_slice_of_time_changes_little() -> None:
    for step in (decoding(9), [*decoding(9), (sequence(100), 20)]):
        share = measured()
        share.observe(step, 3.0)
        assert 15 <= share(9, 1) <= 25


def test_a_measurement_that_takes_suspiciously_long_is_made_again() -> None:
    def due() -> PromptShare:
        share = measured(alone=0.010)
        for _ in range(AGE):
            share.observe([*decoding(9), (sequence(100), 20)], 0.020)
        assert share(9, 1) == 0
        share.observe(decoding(9), 0.040)
        assert share(9, 1) == 0, "once more"
        return share

    stolen = due()
    stolen.observe(decoding(9), 0.011)
    assert 15 <= stolen(9, 1) <= 25
    slower = due()
    slower.observe(decoding(9), 0.038)
    assert slower(9, 1) > 50, "the machine is slower now: twice in a row is believed"


def step_seconds(step: Step) -> float:
    """A machine: each step costs, each row costs, and each costs more the further it looks back."""
    return 0.005 + sum(n * (0.0008 + 2e-7 * (sequence.computed + n / 2)) for sequence, n in step)


def make(share: PromptShare | None, prompts: list[int]) -> Scheduler:
    cache = KVCache(CacheShape(1, 1, 1), 2000, 16)
    scheduler = Scheduler(cache, max_batch_tokens=256, max_sequences=32, prefix_cache=False, share=share)
    for n in prompts:
        scheduler.add(sequence(n))
    return scheduler


def turn(scheduler: Scheduler, noise: float = 0.0) -> tuple[Step, float]:
    """One step of the machine, which takes up to `noise` longer than it should."""
    step = scheduler.schedule()
    seconds = step_seconds(step) * (1 + noise)
    scheduler.advance(step)
    for item, _ in step:
        if item.computed == len(item.tokens):
            item.tokens.append(0)
    if isinstance(scheduler.share, PromptShare):
        scheduler.share.observe(step, seconds)
    return step, seconds


def disturb(share: PromptShare | None, streams: int, noise: float = 0.0) -> list[float]:
    """A prompt of 2048 tokens comes when so many streams decode. Seconds of each step until it was read."""
    chance = random.Random(1)
    scheduler = make(share, [64] * streams)
    while any(item.computed < len(item.tokens) - 1 for item in scheduler.waiting + scheduler.running):
        turn(scheduler)
    long, times = sequence(2048), []
    scheduler.add(long)
    while len(long.tokens) == 2048:
        times.append(turn(scheduler, noise * chance.random())[1])
    return times


@pytest.mark.parametrize("streams", [1, 3, 8, 20])
def test_a_long_prompt_at_most_doubles_the_steps_and_is_read_at_half_speed(streams: int) -> None:
    undisturbed = step_seconds([(sequence(100), 1)] * streams)
    times = disturb(PromptShare(stall=2), streams)
    assert max(times) < 2.25 * undisturbed, "its attention grows and the average follows"
    assert sum(times) < 2.6 * sum(disturb(None, 0))
    assert max(disturb(None, streams)) > 8 * undisturbed, "without the rule"


def test_a_noisy_clock_does_not_carry_it_away() -> None:
    undisturbed = step_seconds([(sequence(100), 1)] * 8)
    times = disturb(PromptShare(stall=2), 8, noise=0.5)
    assert sorted(times)[int(0.95 * len(times))] < 1.5 * 2.25 * undisturbed
    assert sum(times) < 1.5 * 2.6 * sum(disturb(None, 0))


def test_one_stream_and_many_prompts_is_mostly_reading() -> None:
    scheduler = make(PromptShare(stall=2), [256] * 32)
    sizes = [sum(n for _, n in turn(scheduler)[0]) for _ in range(8)]
    assert sizes[:2] == [256, 1], "the first answer's first step is measured"
    assert sum(sizes) > 5 * 200
