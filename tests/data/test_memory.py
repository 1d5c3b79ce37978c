"""What a further document costs: memory of the passes that see the whole corpus must be numbers, and few."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.memory import measure, peak_of_select

FEW, MANY = 50_000, 300_000
BYTES_PER_DOCUMENT = 250  # today about 150: 70 of the index, 13 of the fates, the rest while something is sorted


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_a_further_document_costs_few_bytes(tmp_path: Path) -> None:
    few, many = (peak_of_select(count, tmp_path / str(count)) for count in (FEW, MANY))
    each = (many - few) / (MANY - FEW)
    assert each < BYTES_PER_DOCUMENT, f"{each:.0f} bytes a document, peaks {few} and {many}"


@pytest.mark.journey
def test_all_processes_together_stay_small(tmp_path: Path) -> None:
    """40 MB here; `bench/memory.py` for more. Two workers and the parent; the bound does not know the size.

    700 MB, because libraries take 100 MB a process before anything is read, and a batch of four million characters
    is measured at once.
    """
    found = measure(40, workers=2, folder=tmp_path)
    assert found["peak_mb"] < 700 and found["parent_peak_mb"] < 450, found
