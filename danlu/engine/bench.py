"""`danlu bench`: how fast a model is on the machine it is asked on, and how fast it could be.

    one request      a prompt of P tokens, then N more      TTFT, prefill, decode, gaps, shares of the limits
    C at once        the same sizes, other tokens           tokens/s of all together, TTFT and gaps of each

repeated for some rounds; medians with the lowest and highest round, and percentiles over the tokens of all rounds.
Prompts are random tokens, others in every round, so that no cache of prompts helps; answers are greedy and of full
length. One short request before the first round is not counted.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from danlu.core.errors import UserError
from danlu.engine.limits import arithmetic_of, prefill_flops, weight_bytes
from danlu.engine.measure import EnginePlayer, Job, Trace, percentiles, play, throughput

if TYPE_CHECKING:
    from danlu.engine.engine import Engine
    from danlu.engine.limits import Machine

PROMPT_TOKENS, MAX_TOKENS = 512, 128  # what is measured when nobody says, if the context allows
MAX_CONCURRENCY, MAX_ROUNDS = 1024, 1000  # more is a slip of the finger, and would fill the memory
SHOW_SECONDS = 0.1  # between two moments of the live view


@dataclass(frozen=True)
class BenchPlan:
    """Sizes: tokens of a prompt, tokens of an answer, requests at once, and how often all is done."""

    prompt_tokens: int
    max_tokens: int
    concurrency: int
    rounds: int

    @classmethod
    def fit(
        cls, context: int, prompt_tokens: int | None, max_tokens: int | None, concurrency: int, rounds: int
    ) -> BenchPlan:
        """The sizes asked for, or what fits a context. Raises UserError when they do not fit or mean nothing."""
        cls.check(prompt_tokens, max_tokens, concurrency, rounds)
        if prompt_tokens is None:
            prompt_tokens = max(1, min(PROMPT_TOKENS, context - (max_tokens or min(MAX_TOKENS, context // 4))))
        if max_tokens is None:
            max_tokens = max(2, min(MAX_TOKENS, context - prompt_tokens))
        if prompt_tokens + max_tokens > context:
            raise UserError(
                f"a prompt of {prompt_tokens} tokens and an answer of {max_tokens} do not fit the context of {context}",
                "lower --prompt-tokens or --max-tokens",
            )
        return cls(prompt_tokens, max_tokens, concurrency, rounds)

    @staticmethod
    def check(prompt_tokens: int | None, max_tokens: int | None, concurrency: int, rounds: int) -> None:
        """What can be said of the sizes before there is a model. Raises UserError when one of them means nothing."""
        for name, value, least, most in (
            ("prompt tokens", prompt_tokens, 1, None),  # of tokens the context is the limit
            ("max tokens", max_tokens, 2, None),
            ("concurrency", concurrency, 1, MAX_CONCURRENCY),
            ("rounds", rounds, 1, MAX_ROUNDS),
        ):
            if value is not None and (value < least or (most is not None and value > most)):
                raise UserError(f"{name} is {value}", f"it must be {_span(least, most)}")


def _span(least: int, most: int | None) -> str:
    return f"at least {least}" if most is None else f"from {least} to {most:,}"


@dataclass(frozen=True)
class Moment:
    """What is going on, for the live view: tokens/s of this run so far, and the share of the limit where there is one.

    `done` counts runs; there are `total`.
    """

    phase: str  # prefill, decode, concurrent
    done: int
    total: int
    tokens_per_second: float | None = None
    share: float | None = None


def bench(
    engine: Engine, plan: BenchPlan, machine: Machine, show: Callable[[Moment], None] = lambda moment: None
) -> dict[str, Any]:
    """Measure; the engine must be idle. Returns the JSON object of `danlu bench`."""
    peak = machine.peak(arithmetic_of(engine))
    prefill_limit = plan.prompt_tokens * peak / prefill_flops(engine.model, plan.prompt_tokens)
    weights, kv = weight_bytes(engine.model), engine.cache.shape.bytes_per_token

    def decode_limit(trace: Trace) -> float:
        context = trace.prompt_tokens + len(trace.tokens) / 2  # it grows by one a token: the middle stands for all
        return machine.bandwidth / (weights + context * kv)

    numbers, vocabulary = random.Random(0), engine.model.config.vocab_size

    def jobs(count: int, new: int) -> list[Job]:
        return [Job(numbers.choices(range(vocabulary), k=plan.prompt_tokens), new) for _ in range(count)]

    player = EnginePlayer(engine)
    watch = _Watch(show, decode_limit, total=plan.rounds * (2 if plan.concurrency > 1 else 1))
    alone: list[Trace] = []
    together: list[list[Trace]] = []
    play(player, jobs(1, 2))
    for _ in range(plan.rounds):
        watch.begin("prefill", "decode")
        alone += play(player, jobs(1, plan.max_tokens), watch)
        if plan.concurrency > 1:
            watch.begin("concurrent", "concurrent")
            together.append(play(player, jobs(plan.concurrency, plan.max_tokens), watch))
    return {
        "prompt_tokens": plan.prompt_tokens,
        "max_tokens": plan.max_tokens,
        "concurrency": plan.concurrency,
        "rounds": plan.rounds,
        "prefill": _against([trace.prefill_rate for trace in alone], prefill_limit),
        "decode": _against([trace.decode_rate for trace in alone], decode_limit(alone[0])),
        "ttft_seconds": spread([trace.ttft for trace in alone]),
        "gap_seconds": percentiles([gap for trace in alone for gap in trace.gaps]),
        "concurrent": _together(together) if together else None,
        "limits": {"bandwidth": machine.bandwidth, "matrix_peak": peak},
        "bytes": {"weights": weights, "kv_per_token": kv},
    }


class _Watch:
    """Turns arrivals into moments: one when a run begins, then a few a second."""

    def __init__(self, show: Callable[[Moment], None], decode_limit: Callable[[Trace], float], total: int) -> None:
        self.show, self.decode_limit, self.total = show, decode_limit, total
        self.done, self.phase, self.shown = -1, "", 0.0

    def begin(self, first: str, then: str) -> None:
        """A run begins: what it does before its first tokens, and what after."""
        self.done, self.phase, self.shown = self.done + 1, then, time.perf_counter()
        self.show(Moment(first, self.done, self.total))

    def __call__(self, traces: list[Trace]) -> None:
        now = time.perf_counter()
        if now - self.shown < SHOW_SECONDS or len(traces[0].arrived) < 2:
            return
        self.shown = now
        if len(traces) == 1:
            rate = traces[0].decode_rate
            self.show(Moment(self.phase, self.done, self.total, rate, rate / self.decode_limit(traces[0])))
        else:
            self.show(Moment(self.phase, self.done, self.total, throughput([t for t in traces if t.arrived])))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest of some rounds."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _against(rates: list[float], limit: float) -> dict[str, Any]:
    found = spread(rates)
    return {"tokens_per_second": found, "limit": limit, "share": found["median"] / limit}


def _together(rounds: list[list[Trace]]) -> dict[str, Any]:
    return {
        "requests": len(rounds[0]),
        "tokens_per_second": spread([throughput(traces) for traces in rounds]),
        "ttft_seconds": percentiles([trace.ttft for traces in rounds for trace in traces]),
        "gap_seconds": percentiles([gap for traces in rounds for trace in traces for gap in trace.gaps]),
    }
