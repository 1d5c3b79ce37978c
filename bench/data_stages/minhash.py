"""minhash, clusters, substring: how fast duplicates are found, in how much memory, and which.

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

import gzip
import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import contest
from bench.data_stages import DATATROVE, SUFFIX_ARRAY, files, once, python_of

STORE = files.STORE / "dedup"
BYTES = {"en": 4_000_000, "zh": 2_500_000}  # of base documents
PACKAGES = {"en": files.LINUX, "zh": files.MANUALS}
PLANTED = 800  # copies a language
BUCKETS = ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.01))


# ---- documents -----------------------------------------------------------------------------------------------------


def base_texts(language: str) -> Iterator[str]:
    from danlu.data.split import cut

    pattern = "usr/share/man/zh_CN/man*/*.gz" if language == "zh" else "usr/share/doc/**/*.rst.gz"
    for file in sorted(files.debian(PACKAGES[language]).glob(pattern)):
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
    from danlu.data.scan import scan

    return scan(texts, [language] * len(texts), measures=False).signatures


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
    turns: dict[str, Callable[[], dict[str, Any]]] = {
        "danlu": lambda: once(sys.executable, "minhash_danlu", source, target)
    }
    for name, bands, rows in (("datatrove 14 x 8", 14, 8), ("datatrove 32 x 4", 32, 4)):
        turns[name] = lambda bands=bands, rows=rows: once(
            python_of("datatrove", DATATROVE), "minhash_datatrove", source, target, bands, rows
        )
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    rows_out: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for name, turn in turns.items():
            try:
                answer = turn()
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
    return {"what": "duplicates: the whole stage", "size": truth["size"], "rows": list(rows_out.values())}


def clusters(rounds: int) -> dict[str, Any]:
    answers = [once(sys.executable, "clusters_danlu", STORE / "signatures", 2_000_000, 10**9) for _ in range(rounds)]
    rate = contest.spread([one["documents"] / one["seconds"] for one in answers])
    print(rate, answers[-1], flush=True)
    return {"what": "duplicates: clusters", "documents_per_second": rate, "memory_bytes": 10**9, **answers[-1]}


def substring(rounds: int) -> dict[str, Any]:
    make_documents()
    file, plain, work = STORE / "in" / "en.jsonl", STORE / "en.txt", STORE / "repeats"
    plain.write_text("\0".join(json.loads(line)["text"] for line in file.open(encoding="utf-8")), encoding="utf-8")
    size, memory = plain.stat().st_size, 64 << 20
    turns: dict[str, Callable[[], dict[str, Any]]] = {
        "danlu, bytes": lambda: once(sys.executable, "substring_danlu", file, work, "bytes", 300, memory),
        "danlu, units": lambda: once(sys.executable, "substring_danlu", file, work, "units", 100, memory),
        "suffix array and LCP": lambda: once(python_of("suffix", SUFFIX_ARRAY), "substring_suffix", plain),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            runs[name].append(turn())
    rows = []
    for name, answers in runs.items():
        rate = contest.spread([size / 1e6 / one["seconds"] for one in answers])
        rows.append({"name": name, "megabytes_per_second": rate, **answers[-1]})
        print(rows[-1], flush=True)
    return {"what": "duplicates: repeated passages", "bytes": size, "rows": rows}
