"""Repeated passages by danlu in a file of JSON lines. Prints seconds and peak memory.

python -m bench.data_peers.substring_danlu FILE WORK KIND AT_LEAST MEMORY_BYTES
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from danlu.data.dedup.native import library
from danlu.data.dedup.substring import repeated_spans


def main() -> None:
    file, work, kind, at_least, memory = sys.argv[1:]

    def documents() -> Iterator[tuple[int, str]]:
        for number, line in enumerate(open(file, encoding="utf-8")):  # noqa: SIM115
            yield number, json.loads(line)["text"]

    library()
    begin = time.perf_counter()
    spans = repeated_spans(
        documents,
        Path(work),
        kind=kind,
        at_least=int(at_least),
        memory_bytes=int(memory),  # type: ignore[arg-type]
    )
    end = time.perf_counter()
    cut = int((spans.rows[:, 2].astype(int) - spans.rows[:, 1]).sum()) if len(spans) else 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    shutil.rmtree(work)
    print(json.dumps({"seconds": end - begin, "peak_bytes": peak, "spans": len(spans), "symbols_cut": cut}))


if __name__ == "__main__":
    main()
