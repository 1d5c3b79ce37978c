from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.engine.kv_cache import BlockPool, CacheShape, KVCache, plan_blocks

SHAPE = CacheShape(n_layers=2, n_kv_heads=1, head_dim=4)


def test_bytes_per_token_by_hand() -> None:
    # keys and values, 2 layers, 1 head of 4 numbers of 4 bytes
    assert SHAPE.bytes_per_token == 2 * 2 * 1 * 4 * 4


def test_a_growing_table_takes_neighbours_and_gives_them_back() -> None:
    cache = KVCache(SHAPE, n_blocks=6, block_size=4)
    first: list[int] = []
    assert cache.grow(first, 9)
    assert first == [0, 1, 2] and cache.contiguous(first)
    second: list[int] = []
    assert cache.grow(second, 4) and second == [3]
    assert cache.grow(first, 13) and first == [0, 1, 2, 4] and not cache.contiguous(first)
    cache.check([first, second])
    assert not cache.grow(second, 13), "two blocks are missing and one is free"
    assert second == [3], "a refusal changes nothing"
    cache.release(first)
    assert first == [] and cache.n_used == 1
    cache.check([second])


def test_check_finds_a_lost_block_and_one_held_twice() -> None:
    pool = BlockPool(3)
    block = pool.take()
    with pytest.raises(AssertionError, match="lost"):
        pool.check([])
    with pytest.raises(AssertionError, match="lost"):
        pool.check([[block], [block]])
    pool.give(block)
    with pytest.raises(AssertionError, match="twice"):
        pool.give(block)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.booleans()), max_size=60))
def test_no_order_of_growing_and_releasing_loses_a_block(moves: list[tuple[int, int, bool]]) -> None:
    cache = KVCache(SHAPE, n_blocks=9, block_size=3)
    tables: list[list[int]] = [[] for _ in range(4)]
    for who, n_tokens, release in moves:
        if release:
            cache.release(tables[who])
        else:
            before = len(tables[who])
            grew = cache.grow(tables[who], n_tokens)
            assert len(tables[who]) == (max(before, cache.blocks_for(n_tokens)) if grew else before)
        cache.check(tables)


def test_the_cache_is_sized_by_need_and_by_memory() -> None:
    per_block = SHAPE.bytes_per_token * 4

    def plan(kv_bytes: int | None, free_bytes: int) -> int:
        return plan_blocks(SHAPE, 4, max_context=30, max_sequences=2, kv_bytes=kv_bytes, free_bytes=free_bytes)

    assert plan(None, 10**9) == 16  # 2 sequences of 8 blocks
    assert plan(None, 4 * 5 * per_block) == 5  # a quarter of what is free
    assert plan(3 * per_block + 1, 10**9) == 3
    with pytest.raises(UserError, match="too small for one block"):
        plan(per_block - 1, 10**9)


def test_unwritten_memory_is_zero() -> None:
    cache = KVCache(SHAPE, n_blocks=2, block_size=4)
    assert not torch.cat([*cache.keys, *cache.values]).any()
