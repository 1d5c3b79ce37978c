"""What a further document costs: memory of the passes that see the whole corpus must be numbers, and few."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from danlu.data.measured import OWN_SCORES, SCORE, SIGNATURE_BYTES, schema, scores

ROOT = Path(__file__).parents[2]
FEW, MANY = 50_000, 300_000
BYTES_PER_DOCUMENT = 250  # today about 150: 70 of the index, 13 of the fates, the rest while something is sorted
PEAK = """
import resource, sys
from pathlib import Path
from danlu.core.stage import StageRun
from danlu.data.select import SelectConfig
from danlu.data.selection import run_selection
run = StageRun.for_test(Path(sys.argv[2]))
run_selection(SelectConfig(memory_mb=64, topics=0, quality=False), run, Path(sys.argv[1]))
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def _write(folder: Path, count: int) -> None:
    """A measured corpus of short texts: a fifth of them twice, every third the part of a long one."""
    random = np.random.default_rng(count)
    folder.mkdir()
    names = scores()
    (folder / "report.json").write_text('{"in": {"texts": 1, "bytes": 1, "files": 1, "by_source": {}}}')
    with pq.ParquetWriter(folder / "measured-00000.parquet", schema(names)) as writer:
        for start in range(0, count, 25_000):
            n = min(25_000, count - start)
            ids = [f"{number:016x}" for number in random.integers(0, 1 << 63, n).tolist()]
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
                "origin": [ids[i - i % 3] for i in range(n)],
                "part": [1 + i % 3 for i in range(n)],
                "draw": random.random(n),
                "size": random.integers(100, 2_000, n),
                "text_hash": [hashes[16 * i : 16 * i + 16] for i in twins.tolist()],
                "signature": [random.bytes(SIGNATURE_BYTES) for _ in range(n)],
                **{SCORE + name: np.zeros(n, np.float32) for name in names if name not in OWN_SCORES},
                **{SCORE + name: np.zeros(n, np.float32) for name in OWN_SCORES},
            }
            table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema(names)})
            writer.write_table(table)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_a_further_document_costs_few_bytes(tmp_path: Path) -> None:
    peaks = []
    for count in (FEW, MANY):
        _write(tmp_path / f"in-{count}", count)
        command = [sys.executable, "-c", PEAK, str(tmp_path / f"in-{count}"), str(tmp_path / f"run-{count}")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-2000:]
        peaks.append(int(done.stdout.split()[-1]) * 1024)
    each = (peaks[1] - peaks[0]) / (MANY - FEW)
    assert each < BYTES_PER_DOCUMENT, f"{each:.0f} bytes a document"
    print(f"{each:.0f} bytes a document, peaks {peaks}")
