"""Prompts that begin alike: shared, counted, never mixed up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.engine import Engine, Sampling
from danlu.engine.kv_cache import CacheShape, KVCache
from tests.engine.models import greedy, model_of, random_prompt

SHAPE = CacheShape(n_layers=1, n_kv_heads=1, head_dim=4)
GREEDY = Sampling(temperature=0, max_tokens=6)


def fill(cache: KVCache, tokens: list[int]) -> tuple[list[int], list[int]]:
    """A sequence from beginning to end, as the scheduler leads it: (its table, content numbers)."""
    table, contents = cache.known_prefix(tokens)
    for block in table:
        cache.pool.share(block)
    assert cache.grow(table, len(tokens))
    cache.remember(table, tokens, len(tokens), contents)
    return table, contents


def test_a_known_beginning_is_shared_and_the_last_token_is_not() -> None:
    cache = KVCache(SHAPE, n_blocks=8, block_size=2)
    first, _ = fill(cache, [1, 2, 3, 4, 5])
    second, _ = fill(cache, [1, 2, 3, 4])
    assert second[:1] == first[:1] and second[1] != first[1]  # token 4 must be computed for its logits
    third, _ = fill(cache, [1, 2, 3, 4, 9])
    assert third[:2] == first[:2] and third[2] != first[2]
    cache.check([first, second, third])


def test_the_same_tokens_behind_another_beginning_are_other_content() -> None:
    cache = KVCache(SHAPE, n_blocks=8, block_size=2)
    first, _ = fill(cache, [1, 2, 7, 8, 0])
    other, _ = fill(cache, [3, 4, 7, 8, 0])
    assert not set(first) & set(other)


def test_unused_blocks_are_found_until_they_are_needed_oldest_first() -> None:
    cache = KVCache(SHAPE, n_blocks=4, block_size=2)
    old, _ = fill(cache, [1, 2, 3])
    cache.release(old)
    new, _ = fill(cache, [5, 6, 7])
    cache.release(new)
    assert cache.pool.n_free == 4
    assert len(cache.known_prefix([1, 2, 3])[0]) == len(cache.known_prefix([5, 6, 7])[0]) == 1
    wide: list[int] = []
    assert cache.grow(wide, 6)  # three of four: two are empty, then the oldest content goes
    assert cache.known_prefix([1, 2, 3]) == ([], [])
    assert len(cache.known_prefix([5, 6, 7])[0]) == 1
    cache.check([wide])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_random_sharing_never_loses_or_mixes_a_block(data: st.DataObject) -> None:
    """A model of the cache: what a found block holds is what was put there behind the same beginning."""
    cache = KVCache(SHAPE, n_blocks=10, block_size=2)
    live: list[tuple[list[int], list[int]]] = []
    written: dict[int, tuple[int, ...]] = {}  # block -> all tokens up to its end
    for _ in range(data.draw(st.integers(1, 30))):
        if live and data.draw(st.booleans()):
            table, _ = live.pop(data.draw(st.integers(0, len(live) - 1)))
            cache.release(table)
        else:
            tokens = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=9))
            known, _ = cache.known_prefix(tokens)
            for index, block in enumerate(known):
                assert written[block] == tuple(tokens[: 2 * index + 2])
            need = cache.blocks_for(len(tokens)) - len(known)
            if need + sum(cache.pool.is_free(b) for b in known) > cache.pool.n_free:
                continue
            table, contents = fill(cache, tokens)
            for index, block in enumerate(table):
                if index >= len(known):
                    written[block] = tuple(tokens[: 2 * index + 2])
            live.append((table, contents))
        cache.check([table for table, _ in live])


@pytest.mark.parametrize("shape", ["gqa", "window"])
def test_answers_do_not_change(shape: str) -> None:
    model, common = model_of(shape), random_prompt(30, seed=5)
    prompts = [common + random_prompt(n, seed=n) for n in (1, 4, 9)]
    wanted = [greedy(model, p, 6) for p in prompts]
    e = Engine((model, None), block_size=4)
    for _ in range(2):
        assert [list(o.token_ids) for o in e.generate(prompts, GREEDY)] == wanted
    stats = e.stats
    # Three at once find nothing of each other; the second time all but the last full block's remainder is known.
    assert stats.prefix_hits == sum(4 * ((len(p) - 1) // 4) for p in prompts)
    assert stats.prefix_tokens == 2 * sum(map(len, prompts))
    e.cache.check([])


def test_switched_off() -> None:
    e = Engine((model_of("gqa"), None), block_size=4, prefix_cache=False)
    for _ in range(2):
        list(e.generate(random_prompt(20), GREEDY))
    assert e.stats.prefix_hits == 0


def test_preempted_sequences_find_their_own_blocks() -> None:
    model = model_of("gqa")
    roomy = Engine((model, None), block_size=4)
    tight = Engine((model, None), block_size=4, kv_bytes=11 * 4 * roomy.cache.shape.bytes_per_token)
    prompts = [random_prompt(n, seed=n) for n in (9, 12, 15, 11)]
    s = Sampling(temperature=0, max_tokens=20)
    wanted = [o.token_ids for o in roomy.generate(prompts, s)]
    assert [o.token_ids for o in tight.generate(prompts, s)] == wanted
    assert tight.stats.preemptions > 0
    tight.cache.check([])


def test_nothing_is_found_before_it_was_computed() -> None:
    """Two requests with one beginning in the same step: the second must not read what is not there yet."""
    model, prompt = model_of("gqa"), random_prompt(40, seed=2)
    e = Engine((model, None), block_size=4, max_batch_tokens=16)
    wanted = greedy(model, prompt, 6)
    assert [list(o.token_ids) for o in e.generate([prompt, prompt, prompt], GREEDY)] == [wanted] * 3
    assert not torch.isnan(torch.cat(e.cache.keys)).any()
