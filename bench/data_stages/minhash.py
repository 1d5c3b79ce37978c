"""Duplicates, danlu and its peers on the same files: how fast, in how much memory, and what is found.

    python bench/data_dedup.py                  everything, into bench/results/dedup_*.json
    python bench/data_dedup.py --only minhash   or clusters, substring

minhash     The whole stage (read, sign, cluster, write) on English and Chinese documents with planted copies whose
            exact Jaccard similarity is known, one process each: danlu, datatrove with its defaults (14 bands of 8
            rows) and with danlu's bands (32 of 4). Recall is the share of planted pairs of a similarity of which one
            was removed; a false removal is a document that is in no planted pair. For both, similarity is measured
            with runs of 5 units in English and 3 in Chinese (danlu's), and again with runs of 5 in both (datatrove's
            number, in units).
clusters    Two million signatures within 1 GB.
substring   Repeated passages of 300 bytes: danlu, and a suffix array by libdivsufsort with the LCP array over it,
            which is the part of that way that decides its time and memory.

Documents: Linux documentation and Chinese manual pages (Debian packages, by apt-get download), cut to at most 4,000
characters, without near-duplicates before copies are planted. Contestants take turns.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import contest
import numpy as np

STORE = contest.HERE / ".store" / "dedup"
DEBIAN = contest.HERE / ".store" / "debian"
PEERS = contest.HERE / "dedup"
DATATROVE = ["datatrove[io]>=0.10", "spacy", "jieba", "xxhash<4", "regex", "orjson", "nltk", "tokenizers"]
SUFFIX = ["pydivsufsort"]
BYTES = {"en": 4_000_000, "zh": 2_500_000}  # of base documents
PACKAGES = {"en": "linux-doc-6.1", "zh": "manpages-zh"}
PLANTED = 800  # copies a language
BUCKETS = ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.01))


# ---- documents -----------------------------------------------------------------------------------------------------


def debian(package: str) -> Path:
    """The unpacked files of a Debian package, fetched once."""
    folder = DEBIAN / package
    if not folder.is_dir():
        DEBIAN.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=DEBIAN, check=True, stdout=subprocess.DEVNULL)
        archive = next(DEBIAN.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg", "-x", archive.name, package], cwd=DEBIAN, check=True)
        archive.unlink()
    return folder


def base_texts(language: str) -> Iterator[str]:
    from danlu.data.split import cut

    pattern = "usr/share/man/zh_CN/man*/*.gz" if language == "zh" else "usr/share/doc/**/*.rst.gz"
    for file in sorted(debian(PACKAGES[language]).glob(pattern)):
        text = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
        if language == "zh":  # roff: requests and changes of font are no text
            text = re.sub(r"^[.'].{0,3}\s?|\\f.|\\-|\\&", "", text, flags=re.MULTILINE)
        yield from cut(text, 4000)


def without_duplicates(texts: list[str], language: str) -> list[str]:
    """Drop what is similar from 0.3, so that only planted copies are duplicates."""
    from danlu.data.dedup.clusters import near_duplicates
    from danlu.data.dedup.tables import id_keys

    rows = signatures(texts, language)
    work = STORE / "work"
    found = near_duplicates([rows], id_keys(map(str, range(len(texts)))), work, near=0.3, loose=0.3)
    return [text for text, dropped in zip(texts, found.dropped, strict=True) if not dropped]


def signatures(texts: list[str], language: str) -> np.ndarray:
    from danlu.core.text import units
    from danlu.data.dedup.minhash import DEFAULT_SHINGLE_UNITS, SHINGLE_UNITS, Signatures, UnitHashes

    made, hashes = Signatures(), UnitHashes()
    for text in texts:
        found = units(text.lower())
        numbers = np.fromiter(map(hashes.__getitem__, found), dtype=np.uint64, count=len(found))
        made.add(numbers, SHINGLE_UNITS.get(language, DEFAULT_SHINGLE_UNITS))
    return made.finish()[0]


def edited(text: str, share: float, block: bool, vocabulary: list[str], random: np.random.Generator) -> str:
    """A copy with `share` of its units replaced, scattered or as one block."""
    from danlu.core.text import units

    found = units(text)
    count = max(1, round(share * len(found)))
    if block:
        first = int(random.integers(0, len(found) - count + 1))
        places = set(range(first, first + count))
    else:
        places = set(random.choice(len(found), count, replace=False).tolist())
    out, at = [], 0
    for number, unit in enumerate(found):
        begin = text.index(unit, at)
        out.append(text[at:begin])
        out.append(vocabulary[int(random.integers(len(vocabulary)))] if number in places else unit)
        at = begin + len(unit)
    return "".join([*out, text[at:]])


def make_documents() -> dict[str, Any]:
    """Write LANGUAGE.jsonl and truth.json; returns the truth: pairs with their exact similarity."""
    from danlu.core.text import shingles, units

    truth_file = STORE / "truth.json"
    if truth_file.exists():
        truth: dict[str, Any] = json.loads(truth_file.read_text())
        return truth
    (STORE / "in").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    pairs, size = [], {}
    for language, wanted in BYTES.items():
        texts, total = [], 0
        for text in base_texts(language):
            if len(units(text)) >= 150 and total < wanted:
                texts.append(text)
                total += len(text.encode())
        texts = without_duplicates(texts, language)
        vocabulary = sorted({unit for text in texts[:300] for unit in units(text)})
        rows = [(f"{int(random.integers(1 << 62)):016x}", text) for text in texts]
        for number in random.choice(len(texts), min(PLANTED, len(texts)), replace=False).tolist():
            block = bool(random.integers(2))
            share = float(random.choice([0.1, 0.2, 0.3, 0.4] if block else [0.005, 0.01, 0.02, 0.04, 0.07, 0.1]))
            copy = edited(texts[number], share, block, vocabulary, random)
            name = f"{int(random.integers(1 << 62)):016x}"
            similarity = {}
            for kind, n in (("own", 3 if language == "zh" else 5), ("five", 5)):
                one, two = set(shingles(texts[number], n)), set(shingles(copy, n))
                similarity[kind] = len(one & two) / len(one | two)
            pairs.append({"language": language, "ids": [rows[number][0], name], "block": block, **similarity})
            rows.append((name, copy))
        with (STORE / "in" / f"{language}.jsonl").open("w", encoding="utf-8") as file:
            for number in random.permutation(len(rows)).tolist():
                file.write(json.dumps({"id": rows[number][0], "text": rows[number][1]}, ensure_ascii=False) + "\n")
        size[language] = {"documents": len(rows), "bytes": sum(len(text.encode()) for _, text in rows)}
    truth = {"pairs": pairs, "size": size}
    truth_file.write_text(json.dumps(truth))
    return truth


# ---- contests ------------------------------------------------------------------------------------------------------


def run(command: list[str]) -> dict[str, Any]:
    """The JSON that a contestant prints last. Raises Unavailable with its last words."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=contest.HERE.parent)
    if done.returncode:
        raise contest.Unavailable(contest.one_line(done.stderr.strip().rsplit("\n", 1)[-1]))
    answer: dict[str, Any] = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
    return answer


def judged(removed: list[str], truth: dict[str, Any]) -> dict[str, Any]:
    gone, planted = set(removed), {name for pair in truth["pairs"] for name in pair["ids"]}
    recall: dict[str, Any] = {}
    for kind in ("own", "five"):
        for language in BYTES:
            for low, high in BUCKETS:
                inside = [p for p in truth["pairs"] if p["language"] == language and low <= p[kind] < high]
                found = sum(bool(gone & set(pair["ids"])) for pair in inside)
                recall[f"{kind} {language} {low:.1f}"] = {"pairs": len(inside), "found": found}
    return {"removed": len(gone), "false_removals": len(gone - planted), "recall": recall}


def minhash(rounds: int) -> dict[str, Any]:
    truth = make_documents()
    total = sum(one["bytes"] for one in truth["size"].values())
    source, target = str(STORE / "in"), str(STORE / "out")
    entries: dict[str, Callable[[], list[str]]] = {
        "danlu": lambda: [sys.executable, str(PEERS / "run_danlu.py"), source, target],
    }
    for name, bands, rows in (("datatrove 14 x 8", 14, 8), ("datatrove 32 x 4", 32, 4)):
        entries[name] = lambda bands=bands, rows=rows: [
            contest.environment("datatrove", DATATROVE), str(PEERS / "run_datatrove.py"), source, target,
            str(bands), str(rows),
        ]  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in entries}
    rows_out: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for name, command in entries.items():
            try:
                answer = run(command())
            except contest.Unavailable as error:
                rows_out[name] = {"name": name, "error": str(error)}
                continue
            seconds[name].append(answer["seconds"])
            rows_out[name] = {
                "name": name,
                "megabytes_per_second": contest.spread([total / 1e6 / one for one in seconds[name]]),
                "peak_bytes": answer["peak_bytes"],
                "parts": answer.get("parts", {}),
                **judged(answer["removed"], truth),
            }
            print(name, json.dumps({**rows_out[name], "recall": ""}), flush=True)
    return {"size": truth["size"], "rows": list(rows_out.values())}


def clusters(rounds: int) -> dict[str, Any]:
    command = [sys.executable, str(PEERS / "run_clusters.py"), str(STORE / "signatures"), "2000000", str(10**9)]
    answers = [run(command) for _ in range(rounds)]
    rate = contest.spread([one["documents"] / one["seconds"] for one in answers])
    print(rate, answers[-1], flush=True)
    return {"documents_per_second": rate, "memory_bytes": 10**9, **answers[-1]}


def substring(rounds: int) -> dict[str, Any]:
    make_documents()
    file, plain = STORE / "in" / "en.jsonl", STORE / "en.txt"
    plain.write_text("\0".join(json.loads(line)["text"] for line in file.open(encoding="utf-8")), encoding="utf-8")
    size = plain.stat().st_size
    rows = []
    for name, command in {
        "danlu, bytes": lambda: [sys.executable, str(PEERS / "run_repeats.py"), str(file), str(STORE / "repeats"),
                                 "bytes", "300", str(64 << 20)],
        "danlu, units": lambda: [sys.executable, str(PEERS / "run_repeats.py"), str(file), str(STORE / "repeats"),
                                 "units", "100", str(64 << 20)],
        "suffix array and LCP": lambda: [contest.environment("suffix", SUFFIX), str(PEERS / "run_suffix.py"),
                                         str(plain)],
    }.items():  # fmt: skip
        try:
            answers = [run(command()) for _ in range(rounds)]
        except contest.Unavailable as error:
            rows.append({"name": name, "error": str(error)})
            continue
        rate = contest.spread([size / 1e6 / one["seconds"] for one in answers])
        rows.append({"name": name, "megabytes_per_second": rate, **answers[-1]})
        print(rows[-1], flush=True)
    return {"bytes": size, "rows": rows}


PARTS = {"minhash": minhash, "clusters": clusters, "substring": substring}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.only.split(","):
        result: dict[str, Any] = {"what": f"duplicates: {name}", "rounds": arguments.rounds}
        print("wrote", contest.write_result(f"dedup_{name}", result | PARTS[name](arguments.rounds)))


if __name__ == "__main__":
    main()
