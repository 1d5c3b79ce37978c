"""MinHash of danlu over JSON lines: read, sign, cluster, write what stays. Prints seconds and removed ids.

python -m bench.data_peers.minhash_danlu IN_FOLDER OUT_FOLDER      files LANGUAGE.jsonl with {"id", "text"}
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from danlu.data.dedup.clusters import near_duplicates
from danlu.data.dedup.native import library
from danlu.data.dedup.tables import id_keys
from danlu.data.scan import scan

BATCH_DOCUMENTS = 1_000


def _signed(texts: list[str], language: str) -> np.ndarray:
    return scan(texts, [language] * len(texts), measures=False).signatures


def _shingles(files: list[Path], wanted: np.ndarray) -> Iterator[np.ndarray]:
    number = 0
    for file in files:
        texts = []
        for line in file.open(encoding="utf-8"):
            if wanted[number]:
                texts.append(json.loads(line)["text"])
            number += 1
        found = scan(texts, [file.stem] * len(texts), measures=False, signatures=False, shingles=True)
        yield from np.split(found.shingles, found.shingle_ends[:-1])[: len(texts)]


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    library()  # compiled before the clock starts
    scan(["warm up"], ["en"])
    begin = time.perf_counter()
    tables, ids = [], []
    files = sorted(source.glob("*.jsonl"))
    for file in files:
        texts: list[str] = []
        for line in file.open(encoding="utf-8"):
            row = json.loads(line)
            ids.append(row["id"])
            texts.append(row["text"])
            if len(texts) >= BATCH_DOCUMENTS:
                tables.append(_signed(texts, file.stem))
                texts = []
        if texts:
            tables.append(_signed(texts, file.stem))
    signed = time.perf_counter()
    found_clusters = near_duplicates(
        tables, id_keys(ids), target / "work", shingles=lambda wanted: _shingles(files, wanted)
    )
    clustered = time.perf_counter()
    dropped = found_clusters.dropped
    number = 0
    for file in files:
        with (target / file.name).open("w", encoding="utf-8") as out:
            for line in file.open(encoding="utf-8"):
                if not dropped[number]:
                    out.write(line)
                number += 1
    end = time.perf_counter()
    print(json.dumps({
        "seconds": end - begin,
        "parts": {"signatures": signed - begin, "clusters": clustered - signed, "write": end - clustered},
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "removed": [ids[i] for i in np.flatnonzero(dropped)],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
