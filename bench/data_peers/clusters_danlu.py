"""The clusters part of danlu alone, on signatures made at random with planted copies. Prints seconds and peak memory.

python -m bench.data_peers.clusters_danlu FOLDER DOCUMENTS MEMORY_BYTES
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from danlu.data.dedup.clusters import near_duplicates
from danlu.data.dedup.native import library

BLOCK = 50_000


def write_signatures(path: Path, count: int) -> None:
    """uint32 [count, 128]: three of ten rows are copies of another one with up to 60 % of their places changed."""
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        for begin in range(0, count, BLOCK):
            rows = random.integers(0, 1 << 32, (min(BLOCK, count - begin), 128), dtype=np.uint32)
            copies = 3 * len(rows) // 10
            rows[-copies:] = rows[random.integers(0, len(rows) - copies, copies)]
            changed = random.random((copies, 128)) < random.random((copies, 1)) * 0.6
            rows[-copies:][changed] = random.integers(0, 1 << 32, int(changed.sum()), dtype=np.uint32)
            file.write(rows.tobytes())


def main() -> None:
    folder, count, memory = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    shutil.rmtree(folder / "work", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    signatures = folder / f"{count}.u32"
    if not signatures.exists():
        write_signatures(signatures, count)
    keys = np.random.default_rng(1).permutation(count).astype(np.uint64) * np.uint64(2**40 + 7)
    library()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    found = near_duplicates([signatures], keys, folder / "work", memory_bytes=memory)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    shutil.rmtree(folder / "work")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answer = {"seconds": seconds, "cpu_seconds": cpu, "documents": count, "peak_bytes": peak}
    print(json.dumps(answer | {"dropped": int(found.dropped.sum()), "compared": found.compared}))


if __name__ == "__main__":
    main()
