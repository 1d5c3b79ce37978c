from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from danlu.data.document import Document
from danlu.data.mixing.scatter import in_order, scatter, stretches


@pytest.mark.parametrize("stretch", [1, 700, 10**9])
def test_rows_come_out_by_place(tmp_path: Path, stretch: int) -> None:
    sizes = np.array([i % 40 + 1 for i in range(100)], dtype=np.int64)
    stretch_of = stretches(sizes, stretch)
    assert len(np.unique(stretch_of)) == {1: 94, 700: 3, 10**9: 1}[stretch]  # of one byte: at most 512 of five
    places = list(range(100))
    random.Random(0).shuffle(places)
    files = [tmp_path / f"{i}.arrow" for i in range(4)]
    for i, file in enumerate(files):
        rows = ((Document(f"d{p}", "字" * int(sizes[p]), "zh", "s").row(), p) for p in places[i * 30 : i * 30 + 30])
        scatter(rows, stretch_of, file)
    assert [row["id"] for row in in_order(files, stretch_of)] == [f"d{i}" for i in range(100)]


def test_no_rows(tmp_path: Path) -> None:
    assert list(in_order([], stretches(np.empty(0, np.int64)))) == []
    scatter([], np.empty(0, np.int32), tmp_path / "none.arrow")
    assert list(in_order([tmp_path / "none.arrow"], np.empty(0, np.int32))) == []
