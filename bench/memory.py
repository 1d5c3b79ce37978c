"""How much memory `data.prepare` takes: the sum over its processes, for inputs of several sizes.

    python bench/memory.py --megabytes 500 2000 20000 --workers 2

The input is written here: one jsonl of Chinese and English documents of about two kilobytes, a tenth of them alike.
The resident sets (RSS) of all processes of the stage are added up every 50 ms;
pages that two of them share count twice.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

HAN = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜金生丽水玉出昆冈剑号巨阙珠称夜光"
WORDS = [
    "river",
    "stone",
    "light",
    "winter",
    "garden",
    "letter",
    "bridge",
    "morning",
    "silver",
    "quiet",
    "distant",
    "harbour",
    "copper",
    "lantern",
    "meadow",
    "thunder",
]


def write_rows(path: Path, megabytes: int, characters: int = 800, seed: int = 1) -> int:
    """Rows of about three bytes a character; returns how many."""
    draw = np.random.default_rng(seed)
    signs = np.array(list(HAN))
    size = rows = 0
    last = ""
    with path.open("w", encoding="utf-8") as out:
        while size < megabytes * 1_000_000:
            if rows % 10 == 9:
                text = last.replace("，", "；", 1)
            elif rows % 3:
                lines = signs[draw.integers(0, len(HAN), (characters // 10, 10))]
                lines[0::2, 9], lines[1::2, 9] = "，", "。"
                text = "".join(lines.ravel())
            else:
                text = " ".join([WORDS[i] for i in draw.integers(0, len(WORDS), characters // 4)]) + "."
            last = text
            line = json.dumps({"text": text, "url": f"http://site/{rows}"}, ensure_ascii=False) + "\n"
            out.write(line)
            size += len(line.encode())
            rows += 1
    return rows


def peak_of(command: list[str], workers: int) -> dict[str, float]:
    """Run a command; the largest sum of resident sets of it and its children, and of it alone, in MB."""
    environment = {**os.environ, "DANLU_WORKERS": str(workers), "PYTHONPATH": str(ROOT)}
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    main = psutil.Process(process.pid)
    total = alone = 0
    while process.poll() is None:
        try:
            own = main.memory_info().rss
            children = sum(_rss(child) for child in main.children(recursive=True))
        except psutil.Error:
            break
        total, alone = max(total, own + children), max(alone, own)
        time.sleep(0.05)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors.decode()[-2000:])
    return {"peak_mb": total / 1e6, "parent_peak_mb": alone / 1e6, "seconds": time.monotonic() - begin}


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def measure(megabytes: int, workers: int, folder: Path, characters: int = 800) -> dict[str, Any]:
    source, store = folder / "rows.jsonl", folder / "store"
    rows = write_rows(source, megabytes, characters)
    command = [sys.executable, "-m", "danlu.cli.main", "stage", "data.prepare", "--store", str(store)]
    found = peak_of([*command, "--set", f"source={source}"], workers)
    shutil.rmtree(store)
    return {"megabytes": megabytes, "documents": rows, **{name: round(value, 1) for name, value in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[500, 2_000, 20_000])
    parser.add_argument("--characters", type=int, default=800, help="of a document")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where input and store lie meanwhile; about three times the input")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/memory.json")
    options = parser.parse_args()
    from danlu.core.run import danlu_version, machine_name

    runs = []
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            runs.append(measure(megabytes, options.workers, Path(folder), options.characters))
            print(json.dumps(runs[-1]), flush=True)
    result = {
        "machine": machine_name(),
        "danlu": danlu_version(),
        "workers": options.workers,
        "characters_per_document": options.characters,
        "seed": 1,
        "runs": runs,
    }
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
