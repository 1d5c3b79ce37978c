"""The data room beside its peers: the same texts through each stage, one thread, in turns.

    python bench/data.py                              all stages
    python bench/data.py --only quality --rounds 1    a slice; `--add` puts it into the result that is there

`STAGES` is the table: a stage is a name that each of its contestants (`data_peers/`) knows. Files are made once, as
jsonl under bench/.store/data: Python source of this environment, classical Chinese poems from npm, Chinese manual pages
from Debian. Contestants stay loaded and take turns, A B C A B C, each round on other texts, the same for all; the
median is reported with the lowest and highest round. Memory bandwidth, measured between the rounds, stands beside it.

Peers are datatrove (with spaCy's tokenizer for English, jieba for Chinese, as its own defaults are) and data-juicer
(the filters of its recipes that need no download). Neither does exactly what danlu does; their files say what they do.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from bench import contest  # noqa: E402

FILES = HERE / ".store" / "data"
BYTES = 1_200_000  # of texts in a round


@dataclass(frozen=True)
class Corpus:
    """`sources` as in a recipe; `language` as danlu and as its peers call it."""

    sources: tuple[str, ...]
    language: str
    peers_language: str
    most_bytes: int


@dataclass(frozen=True)
class Peer:
    module: str
    requirements: tuple[str, ...] = ()  # none: this environment
    package: str = ""


@dataclass(frozen=True)
class Stage:
    what: str
    peers: tuple[str, ...]


CORPORA = {
    "Python source": Corpus(("python:site-packages",), "en", "eng", 40_000_000),
    "classical poems": Corpus(("npm:chinese-poetry",), "zh", "zh", 15_000_000),
    "manual pages": Corpus(("debian:manpages-zh",), "zh", "zh", 15_000_000),
}
PEERS = {
    "danlu": Peer("danlu"),
    "datatrove": Peer("datatrove", ("datatrove[processing]==0.10.1", "spacy", "jieba"), "datatrove"),
    "data-juicer": Peer("juicer", ("py-data-juicer==1.6.1", "aiohttp", "scipy"), "py-data-juicer"),
}
STAGES = {
    "quality": Stage("Gopher quality and repetition, C4, FineWeb", ("danlu", "datatrove", "data-juicer")),
    "signatures": Stage("MinHash signatures", ("danlu", "datatrove", "data-juicer")),
    "quality and signatures": Stage("both in one pass", ("danlu",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of stages, corpora and peers, cut short, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--add", action="store_true", help="keep the rows that are not measured again")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.only.split(",") if name]
    rows = measure(chosen, arguments.rounds)
    path = contest.RESULTS / "data.json"
    if arguments.add and path.exists():
        new = {(row["stage"], row["corpus"], row["peer"]) for row in rows}
        old = json.loads(path.read_text(encoding="utf-8"))["rows"]
        rows = [row for row in old if (row["stage"], row["corpus"], row["peer"]) not in new] + rows
    stages = {name: stage.what for name, stage in STAGES.items()}
    print("wrote", contest.write_result("data", {"rounds": arguments.rounds, "stages": stages, "rows": rows}))


def measure(chosen: list[str], rounds: int) -> list[dict[str, Any]]:
    cells = [
        (stage, corpus, peer)
        for stage in _chosen(STAGES, chosen)
        for corpus in _chosen(CORPORA, chosen)
        for peer in STAGES[stage].peers
        if peer in _chosen(PEERS, chosen)
    ]
    files = {corpus: corpus_file(corpus) for corpus in dict.fromkeys(corpus for _, corpus, _ in cells)}
    contestants = {name: start(name) for name in dict.fromkeys(peer for _, _, peer in cells)}
    speeds: dict[tuple[str, str, str], list[float]] = {cell: [] for cell in cells}
    kept: dict[tuple[str, str, str], list[float]] = {cell: [] for cell in cells}
    refusals: dict[tuple[str, str, str], str] = {}
    bandwidths = []
    for number in range(rounds + 1):  # the first is a warm-up
        for cell in cells:
            stage, corpus, peer = cell
            one, language = contestants[peer], CORPORA[corpus]
            if isinstance(one, str) or cell in refusals:
                refusals.setdefault(cell, str(one))
                continue
            name = language.language if peer != "datatrove" else language.peers_language
            ask = {"stage": stage, "file": str(files[corpus]), "start": 997 * number, "bytes": BYTES, "language": name}
            try:
                answer = one.ask(limit=600, **ask)
            except contest.Unavailable as reason:
                refusals[cell] = str(reason)
                continue
            speed = answer["bytes"] / 1e6 / answer["seconds"]
            share = answer["kept"] / answer["documents"]
            print(f"{number} {stage:24} {corpus:16} {peer:12} {speed:8.2f} MB/s  kept {share:.3f}", flush=True)
            if number:
                speeds[cell].append(speed)
                kept[cell].append(share)
        bandwidths.append(bandwidth())
    for one in contestants.values():
        if not isinstance(one, str):
            one.close()
    return [
        {"stage": stage, "corpus": corpus, "peer": peer, "version": peer_version(peer)}
        | ({"refused": refusals[cell]} if cell in refusals else {
            "mb_per_second": contest.spread(speeds[cell]),
            "kept": contest.spread(kept[cell]),
            "bandwidth_gb_per_second": contest.spread(bandwidths),
        })
        for cell in cells
        for stage, corpus, peer in [cell]
    ]  # fmt: skip


def _chosen(names: dict[str, Any], chosen: list[str]) -> list[str]:
    """The names that one of `chosen` begins; all where none does."""
    found = [name for name in names if any(name.startswith(short) for short in chosen)]
    return found or list(names)


def start(name: str) -> contest.Contestant | str:
    """The process of a peer, or why there is none."""
    peer = PEERS[name]
    try:
        python = contest.environment(name, list(peer.requirements)) if peer.requirements else sys.executable
    except contest.Unavailable as reason:
        return str(reason)
    return contest.Contestant(name, [python, "-m", f"bench.data_peers.{peer.module}"])


def peer_version(name: str) -> str:
    peer = PEERS[name]
    if not peer.requirements:
        from danlu.core.run import danlu_version

        return danlu_version()
    return contest.versions(str(contest.ENVS / name / "bin" / "python"), [peer.package])[peer.package]


def corpus_file(name: str) -> Path:
    """The corpus as jsonl, made once."""
    path = FILES / f"{name.replace(' ', '-')}.jsonl"
    if not path.exists():
        FILES.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".part"), "w", encoding="utf-8") as out:
            for text in _texts(CORPORA[name]):
                out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        path.with_suffix(".part").rename(path)
    return path


def _texts(corpus: Corpus) -> Iterator[str]:
    from danlu.data.clean.characters import clean
    from danlu.data.sources.find import find_files

    size = 0
    for source in corpus.sources:
        for file in find_files(source):
            for item in file.read(None):
                text = clean(item.text)[0] if hasattr(item, "text") else ""
                if len(text) < 20:
                    continue
                yield text
                size += len(text.encode())
                if size > corpus.most_bytes:
                    return


def bandwidth() -> float:
    """GB/s of one thread that reads memory."""
    block = np.ones(32_000_000, np.float64)
    begin = time.perf_counter()
    block.sum()
    return block.nbytes / 1e9 / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
