"""Token shards in other layouts, read back by the layout's own rules."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from danlu.core.errors import UserError
from danlu.tokenizer.export import export_tokens
from danlu.tokenizer.shards import ShardWriter, dtype_for

DOCUMENTS = [[5, 6, 7, 0], [8, 0], [9, 10, 11, 12, 0], [1, 0]]


def _tokens(folder: Path, vocab_size: int) -> Path:
    folder.mkdir()
    for split, documents in (("train", DOCUMENTS), ("validation", DOCUMENTS[:1])):
        with ShardWriter(folder, split, dtype=dtype_for(vocab_size), tokenizer="ab" * 32, tokens_per_shard=5) as writer:
            for i, ids in enumerate(documents):
                writer.add(f"{i:016x}", np.array(ids, dtype=np.uint32))
    return folder


@pytest.mark.parametrize(("vocab_size", "dtype", "code"), [(1_000, "<u2", 8), (100_000, "<i4", 4)])
def test_megatron(tmp_path: Path, vocab_size: int, dtype: str, code: int) -> None:
    (tmp_path / "out").mkdir()
    counts = export_tokens(_tokens(tmp_path / "in", vocab_size), tmp_path / "out", "megatron")
    assert counts == {"train": 13, "validation": 4}
    index = (tmp_path / "out/train.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\0\0"
    assert struct.unpack("<QBQQ", index[9:34]) == (1, code, 4, 5)
    lengths = np.frombuffer(index[34:50], "<i4")
    offsets = np.frombuffer(index[50:82], "<i8")
    assert np.frombuffer(index[82:], "<i8").tolist() == [0, 1, 2, 3, 4]
    data = (tmp_path / "out/train.bin").read_bytes()
    size = np.dtype(dtype).itemsize
    read = [np.frombuffer(data[o : o + n * size], dtype).tolist() for o, n in zip(offsets, lengths, strict=True)]
    assert read == DOCUMENTS


def test_nanogpt(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_tokens(_tokens(tmp_path / "in", 1_000), tmp_path / "out", "nanogpt")
    assert np.fromfile(tmp_path / "out/train.bin", "<u2").tolist() == [i for ids in DOCUMENTS for i in ids]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["train.bin", "val.bin"]


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='cannot be exported to "jsonl"'):
        export_tokens(_tokens(tmp_path / "in", 1_000), tmp_path, "jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no token shards"):
        export_tokens(tmp_path / "empty", tmp_path, "megatron")
