"""quality and signatures: texts in memory through one step, one thread, in turns.

Contestants stay loaded and take turns, A B C A B C, each round on other texts, the same for all. The rounds are short,
a few megabytes; memory bandwidth, measured between them, stands beside the medians. Neither peer does exactly what
danlu does; the files in `data_peers` say what they do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import contest
from bench.data_stages import DATA_JUICER, DATATROVE, files, python_of

BYTES = 1_200_000  # of texts in a round
CORPORA = ("Python source", "English documentation", "classical poems", "manual pages")


@dataclass(frozen=True)
class Peer:
    module: str
    requirements: list[str]
    package: str


PEERS = {
    "danlu": Peer("danlu", [], "danlu"),
    "datatrove": Peer("datatrove", DATATROVE, "datatrove"),
    "data-juicer": Peer("juicer", DATA_JUICER, "py-data-juicer"),
}


def quality(rounds: int) -> dict[str, Any]:
    rows = _measure("quality", rounds)
    return {"what": "Gopher quality and repetition, C4, FineWeb; one thread", "rows": rows}


def signatures(rounds: int) -> dict[str, Any]:
    return {"what": "MinHash signatures; one thread", "rows": _measure("signatures", rounds)}


def _measure(stage: str, rounds: int) -> list[dict[str, Any]]:
    contestants, refusals = _start()
    rows = []
    for corpus in CORPORA:
        path, language = files.corpus_file(corpus), files.CORPORA[corpus]
        speeds: dict[str, list[float]] = {name: [] for name in contestants}
        kept: dict[str, list[float]] = {name: [] for name in contestants}
        bandwidths = []
        for number in range(rounds + 1):  # the first is a warm-up
            for name, one in contestants.items():
                if name in refusals:
                    continue
                ask = {"stage": stage, "file": str(path), "start": 997 * number, "bytes": BYTES}
                said = language.peers_language if name == "datatrove" else language.language
                try:
                    answer = one.ask(limit=600, language=said, **ask)
                except contest.Unavailable as reason:
                    refusals[name] = str(reason)
                    continue
                if number:
                    speeds[name].append(answer["bytes"] / 1e6 / answer["seconds"])
                    kept[name].append(answer["kept"] / answer["documents"])
            bandwidths.append(_bandwidth())
        for name in PEERS:
            row: dict[str, Any] = {"corpus": corpus, "peer": name}
            if name in refusals:
                rows.append(row | {"refused": refusals[name]})
                continue
            row |= {"version": _version(name), "mb_per_second": contest.spread(speeds[name])}
            rows.append(row | {"kept": contest.spread(kept[name]), "bandwidth": contest.spread(bandwidths)})
            print(f"{stage:10} {corpus:22} {name:12} {row['mb_per_second']['median']:8.2f} MB/s", flush=True)
    for one in contestants.values():
        one.close()
    return rows


def _start() -> tuple[dict[str, contest.Contestant], dict[str, str]]:
    """The processes of the peers, and why those that are missing are."""
    contestants, refusals = {}, {}
    for name, peer in PEERS.items():
        try:
            python = python_of(name, peer.requirements)
        except contest.Unavailable as reason:
            refusals[name] = str(reason)
            continue
        contestants[name] = contest.Contestant(name, [python, "-m", f"bench.data_peers.{peer.module}"])
    return contestants, refusals


def _version(name: str) -> str:
    peer = PEERS[name]
    return contest.versions(python_of(name, peer.requirements), [peer.package])[peer.package]


def _bandwidth() -> float:
    """GB/s of one thread that reads memory."""
    block = np.ones(32_000_000, np.float64)
    begin = time.perf_counter()
    block.sum()
    return block.nbytes / 1e9 / (time.perf_counter() - begin)
