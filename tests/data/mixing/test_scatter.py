from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from danlu.data.document import Document
from danlu.data.mixing import scatter
from danlu.data.mixing.scatter import Scatter


@pytest.mark.parametrize("stretch", [1, 700, 10**9])
def test_rows_come_out_by_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretch: int) -> None:
    monkeypatch.setattr(scatter, "_PENDING_BYTES", 5_000)  # several flushes
    sizes = np.array([i % 40 + 1 for i in range(100)], dtype=np.int64)
    rows = Scatter(tmp_path, sizes, stretch)
    places = list(range(100))
    random.Random(0).shuffle(places)
    for place in places:
        rows.put(Document(f"d{place}", "字" * int(sizes[place]), "zh", "s").row(), place)
    assert [row["id"] for row in rows.in_order()] == [f"d{i}" for i in range(100)]
    assert not list(tmp_path.iterdir())


def test_no_rows(tmp_path: Path) -> None:
    assert list(Scatter(tmp_path, np.empty(0, np.int64)).in_order()) == []
