"""Speculative decoding: guess the next tokens cheaply, check all guesses in one step.

A step with five rows costs little more than a step with one while reading the weights is what takes the time. So a
cheap drafter guesses what comes next, and the model computes the row of each guess as if it were known:

    tokens            ... the cat          drafts   sat on the
    rows computed           cat  sat  on  the
    sampled from them       sat  on   a            two guesses were right; `a` comes from the first row that disagreed

**Exact.** Every row is sampled as it would have been without drafts: the same distribution, the same penalties, grammar
and generator, one number drawn per token. A draft only decides whether the next row's input was the token that was
sampled, and rows after the first that was not are thrown away. So the answer's distribution is that of the model, for
any drafter; and where a row's logits do not depend on its batch (the compiled kernels), the answer is the same token by
token. (Rejection sampling, Leviathan et al. 2023, arXiv:2211.17192, accepts more of a drafter that samples; this rule
accepts as much of one that does not, which both drafters here are.)

**Meant to cost nothing where it gains nothing.** How many guesses to check is chosen anew in
every step, from the measured seconds of steps of each size and from how often guesses were right:

    tokens expected / seconds expected  =  (S + sum over guesses of p^i) / cost(S + guesses)

With no guess that is plain decoding, so when guesses do not pay there are none. Guesses that are not checked still
teach: they are compared with the tokens that came. The expectation may be wrong for a while (a rate learnt from ten
guesses), so it is also kept in books what guesses gained and cost in seconds: while they are in the red by more than
LOSS of the time, no guess is checked.

    Lookup        what followed the last time these three tokens appeared (prompt lookup): copies, quotes, code
    DraftModel    a smaller model with the same vocabulary, greedy
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

import torch

from danlu.engine.batch import Batch, Logits
from danlu.engine.cost import StepCost
from danlu.engine.request import Sequence

if TYPE_CHECKING:
    from danlu.engine.scheduler import Scheduler, Step

MOST = 8  # guesses for one sequence in one step
GAIN = 1.03  # expected gain below which a step stays plain: estimates are not exact
SERVES = 32  # steps for which a draft model is expected to use what it reads of a sequence
TRIAL = 0.03  # a drafter that costs something is tried again when that takes this share of the time since it was asked
LOSS = 0.01  # share of the time that guesses may lose
AGE = 32  # steps with guesses after which one is plain, to know again what that takes


class Runs(Protocol):
    """Both runners: a batch in, logits and hidden states [H, D] of its rows out."""

    def run(self, batch: Batch) -> tuple[Logits, torch.Tensor]: ...


class Drafter(Protocol):
    """Guesses: at most `most[i]` tokens that may follow sequence i. Deterministic given the tokens."""

    free: bool  # costs next to nothing, so it may guess in every step

    def propose(self, sequences: list[Sequence], most: list[int]) -> list[list[int]]: ...

    def seconds(self, sequences: list[Sequence], depth: int, steps: int) -> float:
        """What guessing so deep for these is expected to take, where it goes on for so many steps."""
        ...


class Lookup:
    """Guesses from the sequence itself: what stood behind the latest earlier occurrence of its last `width` tokens."""

    free = True

    def __init__(self, width: int = 3) -> None:
        self.width = width
        # Per sequence: how many tokens are indexed, and where each run of `width` tokens last ended.
        self._index: WeakKeyDictionary[Sequence, tuple[int, dict[tuple[int, ...], int]]] = WeakKeyDictionary()

    def propose(self, sequences: list[Sequence], most: list[int]) -> list[list[int]]:
        return [self._follow(sequence, n) for sequence, n in zip(sequences, most, strict=True)]

    def seconds(self, sequences: list[Sequence], depth: int, steps: int) -> float:
        return 0.0

    def _follow(self, sequence: Sequence, most: int) -> list[int]:
        tokens, width = sequence.tokens, self.width
        done, ends = self._index.get(sequence, (width, {}))
        for end in range(done, len(tokens)):  # the run that ends with the text itself has nothing behind it yet
            ends[tuple(tokens[end - width : end])] = end
        self._index[sequence] = (max(done, len(tokens)), ends)
        at = ends.get(tuple(tokens[-width:]))
        guesses: list[int] = []
        if at is not None:
            for place in range(at, at + most):  # past the end it reads its own guesses: a loop goes on as a loop
                guesses.append(tokens[place] if place < len(tokens) else guesses[place - len(tokens)])
        return guesses


class DraftModel:
    """Guesses of a smaller model: its most likely token, and so on from there.

    It has a cache of its own with as many blocks as the model's, and uses the same block tables: a token lies in the
    same block of both. What it has read of a sequence may lag behind (a prefix that was found in the model's cache, a
    prompt longer than one step); it catches up by one step's worth of tokens at a time and guesses when it has.
    """

    free = False

    def __init__(self, runner: Runs, max_batch_tokens: int) -> None:
        self._runner, self._max_batch_tokens = runner, max_batch_tokens
        # Per sequence: its table (another list after a preemption) and how many tokens of it are computed here.
        self._read: WeakKeyDictionary[Sequence, tuple[list[int], int]] = WeakKeyDictionary()
        self._cost = StepCost()

    def propose(self, sequences: list[Sequence], most: list[int]) -> list[list[int]]:
        guesses: dict[Sequence, list[int]] = {sequence: [] for sequence in sequences}
        limits = dict(zip(sequences, most, strict=True))
        batch, guessing = self._unread([sequence for sequence in sequences if limits[sequence]])
        while batch.ids:
            best = self._run(batch)
            batch, asked, guessing = Batch(values=False), guessing, []
            for sequence, token in zip(asked, best, strict=True):
                guesses[sequence].append(token)
                if len(guesses[sequence]) < limits[sequence]:
                    table, done = self._read[sequence]
                    batch.add([token], done, table, 1)
                    self._read[sequence] = (table, done + 1)
                    guessing.append(sequence)
        return list(guesses.values())

    def seconds(self, sequences: list[Sequence], depth: int, steps: int) -> float:
        """One small step for each guess, and of what must be read before the share of one of the steps it serves."""
        unread = sum(len(sequence.tokens) - 1 - self._known(sequence) for sequence in sequences)
        reading = self._cost(unread) if unread > MOST * len(sequences) else 0.0
        return depth * self._cost(len(sequences)) + reading / steps

    def _known(self, sequence: Sequence) -> int:
        """How many tokens are read. Wrong guesses are forgotten; another table means that nothing of it is here."""
        table, done = self._read.get(sequence, (sequence.table, 0))
        return min(done, len(sequence.tokens) - 1) if table is sequence.table else 0

    def _unread(self, sequences: list[Sequence]) -> tuple[Batch, list[Sequence]]:
        """What was not read yet, as far as one step goes; and the sequences that are then read to their end."""
        batch, guessing = Batch(values=False), []
        budget = self._max_batch_tokens
        for sequence in sequences:
            known, done = len(sequence.tokens), self._known(sequence)
            n = min(known - done, budget)
            if n:
                batch.add(sequence.tokens[done : done + n], done, sequence.table, int(done + n == known))
            if done + n == known:
                guessing.append(sequence)
            self._read[sequence] = (sequence.table, done + n)
            budget -= n
        return batch, guessing

    def _run(self, batch: Batch) -> list[int]:
        begin = time.perf_counter()
        logits, _ = self._runner.run(batch)
        best = logits.best_ids
        self._cost.observe(len(batch.ids), time.perf_counter() - begin)
        return best


class Rate:
    """How often guesses were right, recent ones counting most. Begins with what is `expected`, worth four guesses."""

    def __init__(self, expected: float, fade: float) -> None:
        self._hits, self._guesses, self._fade = 4 * expected, 4.0, fade

    def observe(self, hits: int, guesses: int) -> None:
        self._hits = self._fade * self._hits + hits
        self._guesses = self._fade * self._guesses + guesses

    @property
    def value(self) -> float:
        return min(self._hits / self._guesses, 0.99)


class Books:
    """What guesses gained, in seconds, of the last `SPAN` steps. It begins as if as many plain ones had been done.

    A gain counts no higher than the loss that is allowed: text that copies does not pay for text that does not.
    """

    SPAN = 500

    def __init__(self) -> None:
        self._time = self._gained = 0.0

    @property
    def red(self) -> bool:
        return self._gained < -LOSS * self._time

    def spend(self, seconds: float) -> None:
        """On choosing and making guesses."""
        if self._time:
            self._time += seconds
            self._gained -= seconds

    def close(self, seconds: float, plain: float) -> None:
        """A step that took `seconds`, and what its tokens would have taken one by one."""
        if not self._time:
            self._time = self.SPAN * seconds
        fade = 1 - 1 / self.SPAN
        self._time = fade * (self._time + seconds)
        self._gained = min(fade * (self._gained + plain - seconds), LOSS * self._time)


class Speculator:
    """Decides in every step what is guessed and how much of it is checked."""

    def __init__(self, drafter: Drafter, scheduler: Scheduler) -> None:
        self.drafter, self.scheduler = drafter, scheduler
        self.cost = StepCost()
        self.checked = self.right = 0  # guesses
        self._overall = Rate(0.3, fade=0.99)
        self._rates: WeakKeyDictionary[Sequence, Rate] = WeakKeyDictionary()
        self._guesses: dict[Sequence, tuple[int, list[int]]] = {}  # of this step: tokens known before it, guesses
        self._idle = 0.0  # seconds of steps since the drafter was asked
        self._books = Books()
        self._age = 0  # steps with guesses since one without

    def plan(self) -> None:
        """Set `drafts` of the running sequences; their blocks are taken here. Before `schedule`.

        A step that reads a prompt has no drafts: it is long enough without them.
        """
        began = time.perf_counter()
        self._guesses.clear()
        self._plan()
        self._books.spend(time.perf_counter() - began)

    def _plan(self) -> None:
        running = self.scheduler.running
        for sequence in running:
            sequence.drafts = []
        reading = any(sequence.computed < len(sequence.tokens) - 1 for sequence in running)
        if not running or reading or self.scheduler.waiting or self._age >= AGE or not self.cost(len(running)):
            return
        # The last token of an answer is never fed back, so the one before the last needs no guess.
        limits = [max(0, min(MOST, sequence.max_length - len(sequence.tokens) - 1)) for sequence in running]
        if self.drafter.free:
            guesses = self.drafter.propose(running, limits)
            if not any(guesses):
                return
            counts = [0] * len(guesses) if self._books.red else self._worth([len(guess) for guess in guesses])
            if any(counts) and not self._grow(running, counts):
                counts = [0] * len(guesses)
        else:
            if self._books.red or not self._grow(running, limits):
                return
            counts = self._worth(limits)
            trial = not any(counts) and self.drafter.seconds(running, 1, 1) <= TRIAL * self._idle
            guesses = self.drafter.propose(running, [min(1, limit) for limit in limits] if trial else counts)
        for sequence, guess, count in zip(running, guesses, counts, strict=True):
            sequence.drafts = guess[:count]
            if guess:
                self._guesses[sequence] = (len(sequence.tokens), guess)

    def learn(self, step: Step, seconds: float) -> None:
        """After a step: what it took, and which guesses were right."""
        right = self.right
        self.cost.observe(sum(n for _, n in step), seconds)
        self._idle = 0.0 if self._guesses else self._idle + seconds
        for sequence, (known, guess) in self._guesses.items():
            came = sequence.tokens[known:]
            hits = next((i for i, (a, b) in enumerate(zip(guess, came, strict=False)) if a != b), None)
            guesses = min(len(guess), len(came)) if hits is None else hits + 1
            hits = guesses if hits is None else hits
            self._rate(sequence).observe(hits, guesses)
            self._overall.observe(hits, guesses)
            self.checked += len(sequence.drafts)
            self.right += min(hits, len(sequence.drafts))
        if any(n > 1 + len(sequence.drafts) for sequence, n in step):
            return  # a prompt is read: nothing is guessed beside it
        drafts = any(sequence.drafts for sequence, _ in step)
        self._age = self._age + 1 if drafts else 0
        plain = self.cost(len(step)) * (1 + (self.right - right) / len(step)) if drafts else seconds
        self._books.close(seconds, plain)

    def _worth(self, lengths: list[int]) -> list[int]:
        """How many guesses of each running sequence to check, when so many can be had: the best expected speed."""
        running = self.scheduler.running
        rates = [self._rate(sequence).value for sequence in running]
        gains = [(rates[i] ** depth, depth, i) for i, n in enumerate(lengths) for depth in range(1, n + 1)]
        gains.sort(key=lambda gain: (-gain[0], gain[1]))
        plain = len(lengths)
        best, best_speed = 0, GAIN * plain / self.cost(plain)
        expected, deepest = float(plain), 0
        for count, (gain, depth, _) in enumerate(gains[: self.scheduler.max_batch_tokens - plain], 1):
            expected += gain
            deepest = max(deepest, depth)
            drafting = self.drafter.seconds(running, deepest, SERVES)
            speed = expected / (self.cost(plain + count) + drafting)
            if speed > best_speed:
                best, best_speed = count, speed
        counts = [0] * plain
        for _, depth, i in gains[:best]:
            counts[i] = max(counts[i], depth)
        return counts

    def _grow(self, running: list[Sequence], limits: list[int]) -> bool:
        """Room for the guesses, if nobody else could miss it: each sequence may need one more block soon."""
        cache = self.scheduler.cache
        ends = [len(sequence.tokens) + limit for sequence, limit in zip(running, limits, strict=True)]
        missing = sum(cache.blocks_for(end) - len(s.table) for s, end in zip(running, ends, strict=True))
        if missing + len(running) > cache.pool.n_free:
            return False
        return all(cache.grow(sequence.table, end) for sequence, end in zip(running, ends, strict=True))

    def _rate(self, sequence: Sequence) -> Rate:
        return self._rates.setdefault(sequence, Rate(self._overall.value, fade=0.9))
