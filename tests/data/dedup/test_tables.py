"""Signatures in files and in memory are one table, and documents are numbered by their ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.data.dedup.tables import Tables, id_keys, number, without_units
from tests.data.dedup.signatures import planted, some_keys


def test_files_and_arrays_are_read_as_one(tmp_path: Path) -> None:
    rows = planted(100, seed=1)
    (tmp_path / "a.u32").write_bytes(rows[:40].tobytes())
    (tmp_path / "b.u32").write_bytes(b"")
    tables = Tables([tmp_path / "a.u32", rows[40:70], tmp_path / "b.u32", rows[70:]])
    assert len(tables) == 100
    assert all((tables.row(i) == rows[i]).all() for i in range(100))
    blocks = list(tables.blocks(16))
    assert (np.concatenate([block for _, block in blocks]) == rows).all()
    assert [start for start, _ in blocks][:4] == [0, 16, 32, 40]
    changed = rows.copy()
    changed[99, 5] ^= 1
    assert tables.fingerprint() != Tables([changed]).fingerprint()


def test_a_cut_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "signatures.u32").write_bytes(b"x" * 700)
    with pytest.raises(UserError, match="no whole number"):
        Tables([tmp_path / "signatures.u32"])
    with pytest.raises(UserError, match="shape"):
        Tables([np.zeros((3, 64), np.uint32)])


def test_rows_without_units() -> None:
    rows = planted(5, seed=2)
    rows[1], rows[3], rows[4, 0] = 0, 2**32 - 1, 0
    assert without_units(rows).tolist() == [False, True, False, True, False]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30))
def test_keys_sort_as_ids_do(numbers: list[int]) -> None:
    ids = [f"{n:016x}" for n in numbers]
    keys = id_keys(ids).tolist()
    assert [ids[i] for i in np.argsort(np.array(keys, np.uint64), kind="stable")] == sorted(ids)


def test_other_ids_have_keys_too() -> None:
    keys = id_keys(["一", "b", "一", "", "ABCDEF0123456789", "０１２３４５６７８９ａｂｃｄｅｆ"])
    assert keys[0] == keys[2] and len(set(keys.tolist())) == 5


@pytest.mark.parametrize("guarded", [0, 1, 1500, 4000])
def test_numbering_in_files_is_that_in_memory(tmp_path: Path, guarded: int) -> None:
    keys = some_keys(4000) >> np.uint64(41)  # with equal ones
    inside = number(keys, tmp_path, 1 << 30, guarded)
    outside = number(keys, tmp_path, 1 << 15, guarded)
    assert (inside == outside).all()
    expected = sorted(range(4000), key=lambda i: (i >= guarded, keys[i], i))
    assert inside.tolist() == expected
