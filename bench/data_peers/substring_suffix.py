"""Suffix array of a file by libdivsufsort (pydivsufsort). Prints seconds and peak memory.

python -m bench.data_peers.substring_suffix FILE
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
from pydivsufsort import divsufsort, kasai


def main() -> None:
    with open(sys.argv[1], "rb") as file:
        data = np.fromfile(file, dtype=np.uint8)  # the library wants an array it could write to
    begin = time.perf_counter()
    array = divsufsort(data)
    sorted_ = time.perf_counter()
    kasai(data, array)
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"sort_seconds": sorted_ - begin, "seconds": end - begin, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
