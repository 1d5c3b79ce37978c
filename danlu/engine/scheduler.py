"""The scheduler: who computes how many tokens in the next step.

There is no prefill phase and no decode phase. Every sequence has `tokens` (known) and `computed` (in the cache); the
difference is its work. A step is a list of (sequence, number of tokens) under one budget, `max_batch_tokens`, filled in
this order (the idea of vLLM's v1 scheduler):

1. running sequences, in the order they began: a decoding one has one token of work, one that still reads its prompt
   has many and gets what is left of the budget (chunked prefill);
2. waiting sequences, by rank, while there is budget, a free place and room for all their known tokens.

New prompts join behind the running ones, so a sequence with much work is always near the end of the list, and those
that decode are served before it: a long prompt never stops the others. How much it may slow them is asked of `share`
(cost.py), from measured seconds: how many tokens of the step prompts may have beside those that decode.

A rank is (priority of the request, arrival): a lower priority is served earlier, and among equals the older one. It
orders those that wait and says who gives way; once running, all are served alike.

A sequence that begins begins behind what is known: full blocks of the same tokens, left in the cache by others, are
shared and not computed again (kv_cache.py).

When the cache is full, the running sequence of the last rank is preempted: its blocks go back, it waits at its rank
with `computed = 0`, and is later read in again, prompt and answer so far, like a longer prompt (its own blocks are
found, as far as nobody needed them). Its answer does not change, because nothing that was sampled is sampled again.
The sequence of the first rank can always finish: alone it fits (`fits` is asked at submit), while it waits nobody else
begins, and all others give way to it. The rest finish when those before them have; a low priority may wait for as long
as better ones keep coming.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections.abc import Callable

from danlu.engine.kv_cache import KVCache
from danlu.engine.request import Sequence

Step = list[tuple[Sequence, int]]


def rank(sequence: Sequence) -> tuple[int, int]:
    """Smaller is served earlier and gives way later."""
    return sequence.request.priority, sequence.arrival


class Scheduler:
    """Owns the queues, and of each sequence `arrival`, `computed`, `table` and `contents`."""

    def __init__(
        self,
        cache: KVCache,
        *,
        max_batch_tokens: int,
        max_sequences: int,
        prefix_cache: bool = True,
        share: Callable[[int, int], float] | None = None,
        ahead: bool = False,
    ) -> None:
        self.cache = cache
        self.share = share  # tokens that prompts may have, given how many decode and how many read or wait; None = all
        self.prefix_cache = prefix_cache
        self.ahead = ahead  # whether sequences have a block more than they need, for steps that are played ahead
        self.prefix_tokens = self.prefix_hits = 0  # tokens that were admitted, and those of them that were known
        self.max_batch_tokens = max_batch_tokens
        self.max_sequences = max_sequences
        self.running: list[Sequence] = []  # in the order they began
        self.waiting: list[Sequence] = []  # by rank
        self.n_preemptions = 0
        self._arrivals = itertools.count()

    def fits(self, n_tokens: int) -> bool:
        """Whether a sequence that grows to `n_tokens` can be computed at all. Its last token is never fed back."""
        return n_tokens - 1 <= self.cache.capacity

    def add(self, sequence: Sequence) -> None:
        sequence.arrival = next(self._arrivals)
        insort(self.waiting, sequence, key=rank)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence (finished or cancelled) and take its blocks back."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self.cache.release(sequence.table)

    def schedule(self) -> Step:
        """The next step. Blocks for it are allocated; `computed` moves only in `advance`, when it was done."""
        step: dict[Sequence, int] = {}
        budget = self.max_batch_tokens
        shared = False  # whether `budget` is what prompts may have
        preempted = False
        for sequence in list(self.running):
            if not budget:
                break
            if sequence not in self.running:
                continue  # it gave way to one before it
            work = len(sequence.tokens) + len(sequence.drafts) - sequence.computed
            if work > 1 + len(sequence.drafts) and not shared:
                budget, shared = self._share(step, budget), True
                if not budget:
                    break
            n = min(work, budget)
            while not self.cache.grow(sequence.table, sequence.computed + n):
                preempted = True
                victim = max(self.running, key=rank)
                self._preempt(victim)
                budget += step.pop(victim, 0)
                if victim is sequence:
                    break
            else:
                step[sequence] = n
                budget -= n
        if self.waiting and not shared:
            budget = self._share(step, budget)
        while self.waiting and budget and not preempted and len(self.running) < self.max_sequences:
            sequence = self.waiting[0]
            if not self._begin(sequence):
                break  # a smaller one behind it does not overtake
            n = min(len(sequence.tokens) - sequence.computed, budget)
            grown = self.cache.grow(sequence.table, sequence.computed + n)
            assert grown
            self.running.append(self.waiting.pop(0))
            step[sequence] = n
            budget -= n
        assert step or not (self.running or self.waiting), "there is work and nobody was scheduled"
        if self.ahead:
            for sequence, n in step.items():
                if self.cache.pool.n_free > len(self.running):  # else each may need one of these itself, and soon
                    self.cache.grow(sequence.table, sequence.computed + n + self.cache.block_size)
        return list(step.items())

    def advance(self, step: Step) -> None:
        """The step was computed: its tokens are in the cache, and full blocks can be found by others.

        Drafts are not counted: whoever finds that one was right does that.
        """
        for sequence, n in step:
            sequence.computed += n - len(sequence.drafts)
            if self.prefix_cache:
                self.cache.remember(
                    sequence.table, sequence.tokens, sequence.computed, sequence.contents, sequence.root
                )

    def check(self) -> None:
        """Assert the invariants; used by tests after every step."""
        assert not any(sequence.table or sequence.computed for sequence in self.waiting)
        assert self.waiting == sorted(self.waiting, key=rank)
        assert len(self.running) <= self.max_sequences
        for sequence in self.running:
            assert len(sequence.table) >= self.cache.blocks_for(sequence.computed)
        self.cache.check(sequence.table for sequence in self.running)

    def _share(self, step: dict[Sequence, int], budget: int) -> int:
        """What prompts may have of the budget that is left, when all that decode have their tokens in `step`."""
        if self.share is None or not step:
            return budget
        running, places = len(self.running), self.max_sequences - len(self.running)
        reading = running - len(step) + min(len(self.waiting), places)
        return int(min(budget, self.share(len(step), reading)))

    def _begin(self, sequence: Sequence) -> bool:
        """Give a waiting sequence what is known of its beginning; False, and no change, if the rest has no room."""
        reuse = self.prefix_cache and not sequence.reads_all
        blocks, contents = self.cache.known_prefix(sequence.tokens, sequence.root) if reuse else ([], [])
        pool = self.cache.pool
        missing = self.cache.blocks_for(len(sequence.tokens)) - len(blocks)
        if missing + sum(pool.is_free(block) for block in blocks) > pool.n_free:
            return False
        for block in blocks:
            pool.share(block)
        sequence.table, sequence.contents = blocks, contents
        sequence.computed = len(blocks) * self.cache.block_size
        self.prefix_tokens += len(sequence.tokens)
        self.prefix_hits += sequence.computed
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.cache.release(sequence.table)
        sequence.contents.clear()
        sequence.computed = 0
        insort(self.waiting, sequence, key=rank)
        self.n_preemptions += 1
