"""How much memory `data.prepare` takes: the sum over its processes, for inputs of several sizes.

    python bench/memory.py --megabytes 500 2000 20000 --folder /somewhere    20 GB take 50 GB of disk and an hour

The input is written here: one jsonl of Chinese and English documents of about two kilobytes, a tenth of them alike.
The resident sets (RSS) of all processes of the stage are added up every 50 ms;
pages that two of them share count twice.

What grows with the corpus are the arrays of `data.select`, so that stage is measured alone as well, on a measured
corpus of many short texts made of random numbers: `bytes_per_document` is the slope over the sizes.
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
DRAWN = 1_000  # rows whose characters are drawn at once


def write_rows(path: Path, megabytes: int, characters: int = 800, seed: int = 1) -> int:
    """Rows of about three bytes a character; returns how many."""
    draw = np.random.default_rng(seed)
    signs, words = np.array(list(HAN)), np.array(WORDS)
    size = rows = 0
    last = ""
    with path.open("wb") as out:
        while True:
            lines = signs[draw.integers(0, len(signs), (DRAWN, characters // 10, 10))]
            lines[:, 0::2, 9], lines[:, 1::2, 9] = "，", "。"
            chinese = lines.reshape(DRAWN, -1).view(f"<U{lines[0].size}").ravel().tolist()
            english = words[draw.integers(0, len(words), (DRAWN, characters // 4))].tolist()
            for signs_of_row, words_of_row in zip(chinese, english, strict=True):
                if size >= megabytes * 1_000_000:
                    return rows
                if rows % 10 == 9:
                    text = last.replace("，", "；", 1)
                else:
                    text = signs_of_row if rows % 3 else " ".join(words_of_row) + "."
                last = text
                line = json.dumps({"text": text, "url": f"http://site/{rows}"}, ensure_ascii=False).encode() + b"\n"
                out.write(line)
                size += len(line)
                rows += 1


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


PEAK = """
import sys
from pathlib import Path
from danlu.core.stage import StageRun
from danlu.data.select import SelectConfig
from danlu.data.select import run_selection
run = StageRun.for_test(Path(sys.argv[2]))
run_selection(SelectConfig(memory_mb=64, topics=0, quality=False), run, Path(sys.argv[1]))
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def peak_of_select(count: int, folder: Path) -> int:
    """Bytes that the passes of `data.select` take at most for so many measured documents, with 64 MB for sorting."""
    write_measured(folder / "in", count)
    command = [sys.executable, "-c", PEAK, str(folder / "in"), str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    shutil.rmtree(folder)
    return int(done.stdout.split()[-1]) * 1024


def write_measured(folder: Path, count: int) -> None:
    """A measured corpus of short texts: a fifth of them twice, a tenth the parts of long ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from danlu.data.measured import OWN_SCORES, ROWS_PER_GROUP, SCORE, SIGNATURE_BYTES, schema, scores

    random = np.random.default_rng(count)
    folder.mkdir(parents=True)
    names = scores()
    (folder / "report.json").write_text('{"in": {"texts": 1, "bytes": 1, "files": 1, "by_source": {}}}')
    for number, start in enumerate(range(0, count, 25_000)):  # pieces of eight megabytes have fewer, usually
        with pq.ParquetWriter(folder / f"measured-{number:05d}.parquet", schema(names)) as writer:
            n = min(25_000, count - start)
            ids = [f"{value:016x}" for value in random.integers(0, 1 << 63, n).tolist()]
            twins = np.arange(n) - (np.arange(n) % 5 == 4)
            hashes = random.bytes(16 * n)
            columns = {
                "id": ids,
                "text": [f"text {i}" for i in range(start, start + n)],
                "language": ["zh"] * n,
                "source": ["s"] * n,
                "licence": [""] * n,
                "meta": [f'{{"path":"a:{i}","url":"http://a/{i}"}}' for i in range(start, start + n)],
                "reason": [""] * n,
                "detail": [""] * n,
                "origin": [ids[i - i % 3] if i % 30 < 3 else ids[i] for i in range(n)],
                "part": [1 + i % 3 if i % 30 < 3 else 0 for i in range(n)],
                "draw": random.random(n),
                "size": random.integers(100, 2_000, n),
                "text_hash": [hashes[16 * i : 16 * i + 16] for i in twins.tolist()],
                "signature": [random.bytes(SIGNATURE_BYTES) for _ in range(n)],
                **{SCORE + name: np.zeros(n, np.float32) for name in names if name not in OWN_SCORES},
                **{SCORE + name: np.zeros(n, np.float32) for name in OWN_SCORES},
            }
            table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema(names)})
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[500, 2_000])
    parser.add_argument(
        "--documents",
        type=int,
        nargs="+",
        default=[200_000, 1_000_000, 9_466_440],
        help="two or more, for data.select alone",
    )
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
    result: dict[str, Any] = {
        "machine": machine_name(),
        "danlu": danlu_version(),
        "workers": options.workers,
        "characters_per_document": options.characters,
        "seed": 1,
        "runs": runs,
    }
    with tempfile.TemporaryDirectory() as folder:
        peaks = [peak_of_select(count, Path(folder) / str(count)) for count in options.documents]
    each = (peaks[-1] - peaks[0]) / (options.documents[-1] - options.documents[0])
    result["select"] = {
        "documents": options.documents,
        "peak_mb": [round(peak / 1e6, 1) for peak in peaks],
        "bytes_per_document": round(each, 1),
    }
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
