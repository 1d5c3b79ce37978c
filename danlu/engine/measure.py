"""Requests, and when their tokens arrive: every speed danlu prints is computed from these two.

    jobs -- play(player, jobs) --> traces         one trace a job, all times in seconds since the beginning

    submitted      arrived[0]    arrived[1]    arrived[2]            arrived[n - 1]
        |---- TTFT -----|--- gap ----|--- gap ----|---- ... --- gap ------|

    prefill      tokens of the prompt / TTFT                     of a request that is alone
    decode       (n - 1) / (arrived[n - 1] - arrived[0])         of a request that is alone
    throughput   tokens of all answers / the last arrival        of many

TTFT is the time to the first token; a gap is the time between two tokens as the reader of a stream sees it, so a
percentile of gaps is over tokens, not over requests. Percentiles are interpolated linearly, as NumPy does and with it
the benchmarks of vLLM and SGLang. A mean would hide what a stream feels: one pause of a second among a thousand tokens.

A player is anything that takes prompts and gives tokens step by step. The contest of `bench/` plays the same jobs on
other engines, in environments where danlu is not installed: this file needs the standard library alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from danlu.engine.engine import Engine


@dataclass(frozen=True)
class Job:
    """A request: `new` tokens, no more and no fewer, greedily after `prompt`.

    It is submitted when the first job of its list has made `after` tokens.
    """

    prompt: list[int]
    new: int
    after: int = 0


@dataclass
class Trace:
    """What became of a job."""

    prompt_tokens: int
    submitted: float = 0.0
    tokens: list[int] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)  # of each token

    @property
    def ttft(self) -> float:
        return self.arrived[0] - self.submitted

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.arrived, self.arrived[1:], strict=False)]

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens a second; the one step that samples the first token is part of it."""
        return self.prompt_tokens / self.ttft

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first. At least two tokens are needed."""
        return (len(self.arrived) - 1) / (self.arrived[-1] - self.arrived[0])


class Player(Protocol):
    """An engine as `play` drives it."""

    def submit(self, key: int, prompt: list[int], new: int) -> None:
        """Queue a request for `new` greedy tokens, whatever they are."""

    def step(self) -> Iterable[tuple[int, int]]:
        """Compute something; (key, token) of what was made, which may be nothing while a prompt is read."""


def play(player: Player, jobs: Sequence[Job], on_token: Callable[[list[Trace]], None] | None = None) -> list[Trace]:
    """Play all jobs to their end. `on_token` sees the traces after every step that made a token."""
    traces = [Trace(len(job.prompt)) for job in jobs]
    held = deque(sorted(range(len(jobs)), key=lambda key: jobs[key].after))
    unfinished = len(jobs)
    begin = time.perf_counter()
    while unfinished:
        while held and len(traces[0].tokens) >= jobs[held[0]].after:
            key = held.popleft()
            traces[key].submitted = time.perf_counter() - begin
            player.submit(key, jobs[key].prompt, jobs[key].new)
        made = list(player.step())
        now = time.perf_counter() - begin
        for key, token in made:
            traces[key].tokens.append(token)
            traces[key].arrived.append(now)
            unfinished -= len(traces[key].tokens) == jobs[key].new
        if made and on_token is not None:
            on_token(traces)
    return traces


def throughput(traces: Sequence[Trace]) -> float:
    """Tokens of all answers a second, from the beginning to the last arrival."""
    return sum(len(trace.tokens) for trace in traces) / max(trace.arrived[-1] for trace in traces)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99, between neighbours linearly.

    >>> percentiles([1.0, 2.0, 3.0])["p90"]
    2.8
    """
    ordered = sorted(values)
    found = {}
    for percent in (50, 90, 99):
        low, rest = divmod((len(ordered) - 1) * percent, 100)
        high = min(low + 1, len(ordered) - 1)
        found[f"p{percent}"] = ordered[low] + (ordered[high] - ordered[low]) * rest / 100
    return found


class EnginePlayer:
    """danlu's engine as a player. Nobody else may step the engine meanwhile."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._keys: dict[str, int] = {}

    def submit(self, key: int, prompt: list[int], new: int) -> None:
        from danlu.engine.request import Sampling

        request = self.engine.submit(prompt, Sampling(max_tokens=new, temperature=0.0, ignore_eos=True))
        self._keys[request.id] = key

    def step(self) -> list[tuple[int, int]]:
        from danlu.core.errors import DanluError

        deltas = self.engine.step()
        if any(delta.finish_reason == "error" for delta in deltas):
            raise DanluError("the model gave a value that is not a number", "check its weights")
        return [(self._keys[delta.request_id], token) for delta in deltas for token in delta.token_ids]
