"""Records come back sorted whatever memory is allowed, and a damaged file says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.dedup.native import flatten, library, sort_records
from danlu.data.dedup.spill import DamagedSpill, Spill, SpillWriter, count_records, read_spill


def _sorted(records: np.ndarray) -> np.ndarray:
    return records[np.lexsort(records.T[::-1])]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    count=st.integers(0, 3000),
    width=st.integers(2, 6),
    high=st.sampled_from([1, 2, 50, 2**32]),
    memory=st.sampled_from([1 << 14, 1 << 16, 1 << 30]),
)
def test_ascending_whatever_the_memory(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, width: int, high: int, memory: int
) -> None:
    folder = tmp_path_factory.mktemp("spill")
    records = np.random.default_rng(seed).integers(0, high, (count, width), dtype=np.uint32)
    spill = Spill(folder, "x", width, count, memory)
    for begin in range(0, count, 700):
        spill.add(records[begin : begin + 700])
    spill.commit()
    assert spill.whole()
    pieces = list(spill.ascending())
    if high == 2**32:  # records that are all equal are streamed as they are
        assert all(piece.nbytes <= max(memory // 4, 4096) for piece in pieces)
    found = np.concatenate([np.empty((0, width), np.uint32), *pieces])
    assert (found == _sorted(records)).all()
    spill.remove()
    assert not list(folder.iterdir())  # no piece is left behind


@pytest.mark.parametrize("count", [0, 1, 100, 20_000])
@pytest.mark.parametrize("high", [1, 3, 2**32])
@pytest.mark.parametrize("width", [2, 3, 6])
def test_the_compiled_sort_is_that_of_numpy(count: int, high: int, width: int) -> None:
    if library() is None:
        pytest.skip("no compiler")
    records = np.random.default_rng(count).integers(0, high, (count, width), dtype=np.uint32)
    expected = sort_records(records.copy(), compiled=False)
    assert (expected == _sorted(records)).all()
    assert (sort_records(records) == expected).all()


def test_a_cut_or_changed_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.spill"
    writer = SpillWriter(path, 3)
    writer.write(np.arange(300, dtype=np.uint32).reshape(-1, 3))
    assert not path.exists()  # it gets its name when it is whole
    writer.commit()
    assert count_records(path, 3) == 100
    whole = path.read_bytes()
    for damaged, words in [
        (whole[:-1], "no end"),
        (whole[:10], "not even"),
        (whole[:600] + whole[612:], "cannot be"),
        (whole[:600] + bytes([whole[600] ^ 1]) + whole[601:], "checksum"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(DamagedSpill, match=words):
            list(read_spill(path, 3))
    path.write_bytes(whole)
    with pytest.raises(DamagedSpill, match="words"):
        list(read_spill(path, 4))


def test_flatten_by_hand() -> None:
    parent = np.array([0, 0, 1, 3, 3, 4], dtype=np.uint32)
    flatten(parent)
    assert parent.tolist() == [0, 0, 0, 3, 3, 3]
