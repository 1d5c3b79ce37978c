"""The engines of the contest behind one set of methods, one file each.

    python -m bench.peers.NAME PATH [...]     loads the weights, then answers requests (contest.serve)

A peer takes requests and gives tokens step by step, as `danlu.engine.measure.play` wants it; the clock, the order of
requests and every figure are therefore the same for all, danlu too. It also gives log-probabilities, through the same
computation that makes its tokens: speed that was bought with precision shows there.

    referee                                                  peer
    {"about": true}                                   --->   {"weight_bytes": ..., "stored_bytes": ..., ...}
    {"nats": [[ids], ...]}                            --->   {"nats": [...]}
    {"play": [job, ...], "warm": [...], "cache": true} --->  {"traces": [...]}

Each runs in an environment of its own, from the root of the repository; of danlu it may import the file above, which
needs the standard library alone.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable
from typing import Any

from bench import contest
from danlu.engine.measure import Job, play


class Peer:
    """What a peer has to say. Token ids in and out, greedy, always as many tokens as asked for."""

    package = ""  # whose version is printed
    alone = ""  # why it takes one request at a time; empty: it takes many

    def __init__(self, path: str) -> None:
        """Load the weights."""

    def prepare(self, jobs: list[Job]) -> None:
        """Make room for jobs that are about to be played; not timed, as a server's start is not."""

    def submit(self, key: int, prompt: list[int], new: int) -> None:
        raise NotImplementedError

    def step(self) -> Iterable[tuple[int, int]]:
        raise NotImplementedError

    def keep_prefixes(self, keep: bool) -> None:
        """Turn the cache of prompts on or off. Most can do so only when they are loaded."""
        if not keep:
            raise NotImplementedError("its prefix cache cannot be turned off here")

    def nats(self, ids: list[int]) -> float:
        """- sum of log p(ids[i] | ids[:i]) over i >= 1."""
        raise NotImplementedError

    def weight_bytes(self) -> int:
        """Bytes of the weights that a token reads, as they lie in memory."""
        raise NotImplementedError

    def stored_bytes(self) -> int:
        """Bytes of all weights, tables of which a token reads one row included."""
        return self.weight_bytes()


def answer(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    if "about" in request:
        size = {"weight_bytes": peer.weight_bytes(), "stored_bytes": peer.stored_bytes()}
        return size | {"alone": peer.alone, "version": version(peer.package)}
    if "nats" in request:
        return {"nats": [peer.nats(ids) for ids in request["nats"]]}
    warm, jobs = ([Job(**job) for job in request[part]] for part in ("warm", "play"))
    peer.prepare([*warm, *jobs])
    peer.keep_prefixes(request["cache"])
    if warm:
        play(peer, warm)
    return {"traces": [dataclasses.asdict(trace) for trace in play(peer, jobs)]}


def version(package: str) -> str:
    from importlib.metadata import version as installed

    return installed(package)


def main(load: Callable[..., Peer]) -> None:
    peer = load(*sys.argv[1:])
    contest.serve(lambda request: answer(peer, request))
