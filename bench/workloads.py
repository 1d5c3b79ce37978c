"""What every engine of the contest is asked to do: the same requests for all, made from a seed, and what counts.

A workload makes its requests from a random number generator, so round 3 of `decode` is the same for everybody and
unlike round 2. Prompts are ordinary token ids, drawn at random: nothing repeats unless a workload means it to.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from danlu.engine.measure import Job, Trace, percentiles, throughput


@dataclass(frozen=True)
class Play:
    """Requests that are timed, and those that came before them. `cache`: prompts may be found again."""

    jobs: list[Job]
    warm: list[Job] = field(default_factory=list)
    cache: bool = True


@dataclass(frozen=True)
class Workload:
    """`figure` makes one number of the traces; `better` says which way."""

    play: Callable[[random.Random], Play]
    figure: Callable[[list[Trace]], float]
    unit: str
    better: str = "higher"


def decode(rng: random.Random) -> Play:
    """One stream: 64 tokens in, then 64 more after the first."""
    return Play([Job(ids(rng, 64), 65)])


def prefill(rng: random.Random) -> Play:
    """One prompt of 512 tokens, to its first token."""
    return Play([Job(ids(rng, 512), 1)])


def concurrent(
    rng: random.Random, requests: int = 32, prompt: tuple[int, int] = (64, 512), new: tuple[int, int] = (32, 256)
) -> Play:
    """Requests of many lengths, all there at once."""
    return Play([Job(ids(rng, rng.randint(*prompt)), rng.randint(*new)) for _ in range(requests)])


def shared(rng: random.Random, requests: int = 32, prefix: int = 1024, own: int = 64, new: int = 32) -> Play:
    """Prompts that begin alike, after one that began so: a system prompt, a document with many questions."""
    common = ids(rng, prefix)
    return Play(
        jobs=[Job(common + ids(rng, own), new) for _ in range(requests)],
        warm=[Job(common + ids(rng, own), 1)],
    )


def unshared(rng: random.Random, requests: int = 32, prefix: int = 1024, own: int = 64, new: int = 32) -> Play:
    """The same lengths with nothing in common, after one of them: what looking for prefixes costs."""
    jobs = [Job(ids(rng, prefix + own), new) for _ in range(requests + 1)]
    return Play(jobs=jobs[1:], warm=[Job(jobs[0].prompt, 1)])


def uncached(rng: random.Random) -> Play:
    """`unshared` with the cache of prompts turned off."""
    play = unshared(rng)
    return Play(play.jobs, play.warm, cache=False)


def steady(rng: random.Random, streams: int = 8, prompt: int = 64, new: int = 96) -> Play:
    """Streams that decode, undisturbed."""
    return Play([Job(ids(rng, prompt), new) for _ in range(streams)])


def intruder(
    rng: random.Random, streams: int = 8, prompt: int = 64, new: int = 96, long: int = 2048, after: int = 32
) -> Play:
    """`steady`, and a long prompt arrives when the first stream has some tokens."""
    play = steady(rng, streams, prompt, new)
    return Play([*play.jobs, Job(ids(rng, long), 1, after)])


def ids(rng: random.Random, count: int) -> list[int]:
    """Ordinary token ids, which every vocabulary here has and none of which is special."""
    return [rng.randrange(100, 40000) for _ in range(count)]


def p99_gap(traces: list[Trace]) -> float:
    """Seconds between two tokens of a stream, of all streams, that one in a hundred exceeds."""
    return percentiles([gap for trace in traces for gap in trace.gaps])["p99"]


WORKLOADS = {
    "decode": Workload(decode, lambda traces: traces[0].decode_rate, "tokens/s"),
    "prefill": Workload(prefill, lambda traces: traces[0].prefill_rate, "tokens/s"),
    "concurrent": Workload(concurrent, throughput, "output tokens/s"),
    "shared": Workload(shared, throughput, "output tokens/s"),
    "unshared": Workload(unshared, throughput, "output tokens/s"),
    "uncached": Workload(uncached, throughput, "output tokens/s"),
    "steady": Workload(steady, p99_gap, "s between tokens, p99", "lower"),
    "intruder": Workload(intruder, p99_gap, "s between tokens, p99", "lower"),
}
