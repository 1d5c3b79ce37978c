"""Cached generation equals a full forward: the property the whole room stands on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.engine.batch import flatten
from danlu.engine.detokenize import TextStream
from danlu.engine.kv_cache import CacheShape, KVCache
from danlu.engine.request import Request, Sampling, Sequence
from danlu.engine.runner import Runner
from danlu.engine.scheduler import Scheduler
from tests.engine.models import CONTEXT, SHAPES, full_forward, model_of, random_prompt


def make(shape: str, *, n_blocks: int, block_size: int, budget: int) -> tuple[Scheduler, Runner]:
    config = model_of(shape).config
    cache = KVCache(CacheShape(config.n_layers, config.n_kv_heads, config.head_dim), n_blocks, block_size)
    scheduler = Scheduler(cache, max_batch_tokens=budget, max_sequences=8)
    return scheduler, Runner(model_of(shape), cache, torch.device("cpu"))


def sequence(tokens: list[int]) -> Sequence:
    return Sequence(Request("r", tokens, Sampling()), 0, list(tokens), CONTEXT, TextStream(None))


def check_steps(shape: str, lengths: list[int], n_steps: int, scheduler: Scheduler, runner: Runner) -> None:
    """Run steps; every row of logits must be what a full forward of that sequence's tokens gives."""
    for i, length in enumerate(lengths):
        scheduler.add(sequence(random_prompt(length, seed=i)))
    for _ in range(n_steps):
        step = scheduler.schedule()
        batch, wanted = flatten(step)
        sampled = [one.sequence for one in wanted]
        logits = runner.run(batch)[0].values
        scheduler.advance(step)
        assert logits.shape[0] == len(sampled)
        for row, item in zip(logits, sampled, strict=True):
            wanted = full_forward(model_of(shape), item.tokens)[-1]
            torch.testing.assert_close(row, wanted, atol=1e-4, rtol=1e-4)
            item.tokens.append(int(wanted.argmax()))
        scheduler.check()


@settings(deadline=None, max_examples=12)
@given(st.data())
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_a_full_forward(shape: str, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=4), label="prompt lengths")
    block_size = data.draw(st.sampled_from([1, 3, 4, 16]), label="block size")
    budget = data.draw(st.integers(1, 40), label="tokens a step")
    scheduler, runner = make(shape, n_blocks=256 // block_size, block_size=block_size, budget=budget)
    check_steps(shape, lengths, 8, scheduler, runner)


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_a_full_forward_when_the_cache_is_too_small_for_all(shape: str) -> None:
    scheduler, runner = make(shape, n_blocks=13, block_size=4, budget=16)
    check_steps(shape, [9, 14, 11, 3], 24, scheduler, runner)
    assert scheduler.n_preemptions > 0


@pytest.mark.parametrize("shape", ["gqa", "window"])
def test_scattered_blocks_read_the_same_as_neighbours(shape: str) -> None:
    scheduler, runner = make(shape, n_blocks=40, block_size=2, budget=16)
    pool = scheduler.cache.pool
    taken = [pool.take() for _ in range(40)]
    for block in taken[::2]:  # every other block stays taken: no two free ones are neighbours
        pool.give(block)
    item = sequence(random_prompt(21))
    scheduler.add(item)
    for _ in range(6):
        step = scheduler.schedule()
        batch, wanted = flatten(step)
        sampled = [one.sequence for one in wanted]
        logits = runner.run(batch)[0].values
        scheduler.advance(step)
        if sampled:  # the prompt takes two steps
            wanted = full_forward(model_of(shape), item.tokens)[-1]
            torch.testing.assert_close(logits[0], wanted, atol=1e-4, rtol=1e-4)
            item.tokens.append(int(wanted.argmax()))
    assert not scheduler.cache.contiguous(item.table)


def test_the_head_runs_only_where_a_token_is_sampled() -> None:
    scheduler, runner = make("gqa", n_blocks=64, block_size=4, budget=10)
    scheduler.add(sequence(random_prompt(4)))
    scheduler.add(sequence(random_prompt(20)))
    batch, wanted = flatten(scheduler.schedule())
    sampled = [one.sequence for one in wanted]
    logits, hidden = runner.run(batch)
    assert logits.values.shape == (1, 101) and len(sampled) == 1, "the second prompt is not read to its end"
    assert hidden.shape == (0, 32), "nobody asked for hidden states"
