from __future__ import annotations

import random

import pytest

from danlu.engine.detokenize import TextStream
from danlu.engine.kv_cache import CacheShape, KVCache
from danlu.engine.request import Request, Sampling, Sequence
from danlu.engine.scheduler import Scheduler, rank


def make(n_blocks: int = 8, block_size: int = 4, budget: int = 10, places: int = 4) -> Scheduler:
    cache = KVCache(CacheShape(1, 1, 1), n_blocks, block_size)
    return Scheduler(cache, max_batch_tokens=budget, max_sequences=places, prefix_cache=False)


def sequence(name: str, n_prompt: int, max_length: int = 32, priority: int = 0) -> Sequence:
    prompt = list(range(n_prompt))
    request = Request(name, prompt, Sampling(), priority=priority)
    return Sequence(request, 0, list(prompt), max_length, TextStream(None))


def play(scheduler: Scheduler) -> list[tuple[str, int]]:
    """One step: what was scheduled; every sequence that reached its end gets a token."""
    step = scheduler.schedule()
    scheduler.advance(step)
    for item, _ in step:
        if item.computed == len(item.tokens):
            item.tokens.append(0)
    scheduler.check()
    return [(item.request.id, n) for item, n in step]


def test_a_long_prompt_is_read_in_chunks_behind_those_that_decode() -> None:
    scheduler = make()
    scheduler.add(sequence("short", 3))
    assert play(scheduler) == [("short", 3)]
    scheduler.add(sequence("long", 20))
    assert play(scheduler) == [("short", 1), ("long", 9)]
    assert play(scheduler) == [("short", 1), ("long", 9)]
    assert play(scheduler) == [("short", 1), ("long", 2)]
    assert play(scheduler) == [("short", 1), ("long", 1)], "and then both decode in one batch"


def test_prompts_get_their_share_beside_those_that_decode_and_everything_when_nobody_does() -> None:
    asked: list[tuple[int, int]] = []

    def share(decoding: int, reading: int) -> float:
        asked.append((decoding, reading))
        return [2.5, 0, 4, 100][len(asked) - 1]

    scheduler = make(n_blocks=20, places=3)
    scheduler.share = share
    scheduler.add(sequence("short", 3))
    assert play(scheduler) == [("short", 3)] and not asked
    assert play(scheduler) == [("short", 1)] and not asked, "nobody reads"
    scheduler.add(sequence("long", 20))
    scheduler.add(sequence("other", 2))
    scheduler.add(sequence("no place", 2))
    assert play(scheduler) == [("short", 1), ("long", 2)]
    assert play(scheduler) == [("short", 1)], "a step to be measured"
    assert play(scheduler) == [("short", 1), ("long", 4)]
    assert play(scheduler) == [("short", 1), ("long", 9)], "no more than the budget"
    assert asked == [(1, 2)] * 4
    scheduler.remove(scheduler.running[0])
    assert play(scheduler) == [("long", 5), ("other", 2), ("no place", 2)]


def test_a_share_is_for_all_that_read_together() -> None:
    scheduler = make(n_blocks=20)
    scheduler.share = lambda decoding, reading: 7
    scheduler.add(sequence("first", 3))
    play(scheduler)
    for name in "abc":
        scheduler.add(sequence(name, 3))
    assert play(scheduler) == [("first", 1), ("a", 3), ("b", 3), ("c", 1)]
    assert play(scheduler) == [("first", 1), ("a", 1), ("b", 1), ("c", 2)]


def test_first_come_first_served_up_to_the_number_of_places() -> None:
    scheduler = make(places=2)
    for name in "abc":
        scheduler.add(sequence(name, 2))
    assert play(scheduler) == [("a", 2), ("b", 2)]
    scheduler.remove(scheduler.running[0])
    assert play(scheduler) == [("b", 1), ("c", 2)]


def test_the_youngest_gives_way_and_is_read_in_again() -> None:
    scheduler = make(n_blocks=4)
    old, young = sequence("old", 8), sequence("young", 8)
    scheduler.add(old)
    scheduler.add(young)
    assert play(scheduler) == [("old", 8), ("young", 2)]
    assert play(scheduler) == [("old", 1)], "old takes the last block for its ninth token; young has no second one"
    assert scheduler.n_preemptions == 1 and young.computed == 0 and young.table == []
    assert list(scheduler.waiting) == [young]
    for _ in range(3):
        assert play(scheduler) == [("old", 1)], "young does not come back before all its known tokens fit"
    scheduler.remove(old)
    assert play(scheduler) == [("young", 8)]


def test_a_small_request_does_not_overtake_a_large_one() -> None:
    scheduler = make(n_blocks=4)
    scheduler.add(sequence("a", 8))
    scheduler.add(sequence("large", 12))
    scheduler.add(sequence("small", 1))
    assert play(scheduler) == [("a", 8)]
    assert play(scheduler) == [("a", 1)]


def test_those_that_wait_begin_by_priority_and_then_by_arrival() -> None:
    scheduler = make(places=1)
    for name, priority in (("first", 0), ("low", 5), ("a", 0), ("vip", -1), ("b", 0)):
        scheduler.add(sequence(name, 2, priority=priority))
    order = []
    while scheduler.waiting or scheduler.running:
        order.append(play(scheduler)[0][0])
        scheduler.remove(scheduler.running[0])
    assert order == ["vip", "first", "a", "b", "low"]


def test_who_runs_is_not_stopped_for_a_better_one_while_there_is_room() -> None:
    scheduler = make(places=1)
    scheduler.add(sequence("low", 2, priority=9))
    play(scheduler)
    scheduler.add(sequence("vip", 2, priority=-9))
    assert play(scheduler) == [("low", 1)]
    assert scheduler.n_preemptions == 0


def test_the_lowest_priority_gives_way_also_when_it_is_the_oldest_and_was_just_given_its_token() -> None:
    scheduler = make(n_blocks=4, budget=20)
    low, high = sequence("low", 5, priority=1), sequence("high", 8, priority=0)
    scheduler.add(low)
    assert play(scheduler) == [("low", 5)]
    scheduler.add(high)
    assert play(scheduler) == [("low", 1), ("high", 8)], "two blocks each"
    assert play(scheduler) == [("high", 1)], "high needs a third one: the older gives way, though it was served first"
    assert scheduler.waiting == [low] and low.table == []


def test_a_better_one_finishes_under_a_flood_of_others() -> None:
    """New ones come at every step, more than can be served; each wants the whole cache in the end."""
    scheduler = make(n_blocks=6, block_size=2, budget=6, places=4)

    def flood(turn: int) -> None:
        scheduler.add(sequence(f"flood {turn}", 3, max_length=13, priority=1))
        play(scheduler)
        for item in [s for s in scheduler.running if len(s.tokens) >= s.max_length and s.request.id != "vip"]:
            scheduler.remove(item)

    for turn in range(20):
        flood(turn)
    vip = sequence("vip", 9, max_length=13)
    scheduler.add(vip)
    steps = 0
    while len(vip.tokens) < vip.max_length:
        flood(steps)
        steps += 1
        assert steps < 60
    assert len(scheduler.waiting) > 20, "the others still wait"


@pytest.mark.parametrize("seed", range(8))
def test_ten_thousand_steps_with_cancels_and_preemptions_lose_no_block_and_starve_nobody(seed: int) -> None:
    chance = random.Random(seed)
    scheduler = make(
        n_blocks=chance.randint(6, 14),
        block_size=chance.randint(1, 5),
        budget=chance.randint(1, 12),
        places=chance.randint(1, 6),
    )
    if seed % 2:
        scheduler.share = lambda decoding, reading: chance.choice([0, 1, 2.5, 20])
    capacity = scheduler.cache.capacity
    live: list[Sequence] = []
    finished = 0
    for turn in range(1250):
        if turn < 1000 and chance.random() < 0.3 and len(live) < 12:
            max_length = chance.randint(2, capacity + 1)
            assert scheduler.fits(max_length)
            new = sequence(str(turn), chance.randint(1, max_length - 1), max_length, chance.choice([-1, 0, 0, 0, 2]))
            live.append(new)
            scheduler.add(new)
        if live and chance.random() < 0.03:
            scheduler.remove(live.pop(chance.randrange(len(live))))
        first = min(live, key=rank, default=None)
        before = list(scheduler.running)
        step = scheduler.schedule()
        assert sum(n for _, n in step) <= scheduler.max_batch_tokens
        assert all(n > 0 for _, n in step)
        assert all(item in scheduler.running for item, _ in step)
        begun = [item for item in scheduler.running if item not in before]
        if first in before:
            assert first in scheduler.running, "the first in rank never gives way"
        elif begun:
            assert first in begun, "and nobody begins before it"
        if begun and scheduler.waiting:
            assert max(map(rank, begun)) < rank(scheduler.waiting[0])
        scheduler.advance(step)
        for item, _ in step:
            if item.computed == len(item.tokens):
                item.tokens.append(0)
                if len(item.tokens) >= item.max_length:
                    scheduler.remove(item)
                    live.remove(item)
                    finished += 1
        scheduler.check()
    while live:  # no new ones come: all must end
        step = scheduler.schedule()
        scheduler.advance(step)
        for item, _ in step:
            if item.computed == len(item.tokens):
                item.tokens.append(0)
                if len(item.tokens) >= item.max_length:
                    scheduler.remove(item)
                    live.remove(item)
                    finished += 1
    assert finished > 10
    assert scheduler.cache.n_used == 0
    scheduler.cache.check([])
