"""Shards: what is written is read back by position and by document; damage is an error with a name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.tokenizer.shards import HEADER, ShardWriter, TokenShards, dtype_for, read_summary

HASH = "ab" * 32


def write(directory: Path, documents: list[list[int]], *, limit: int = 100, vocab_size: int = 500) -> None:
    directory.mkdir(exist_ok=True)
    with ShardWriter(directory, "train", dtype=dtype_for(vocab_size), tokenizer=HASH, tokens_per_shard=limit) as writer:
        for i, ids in enumerate(documents):
            writer.add(f"doc-{i}", np.array(ids, dtype=np.uint32))


def test_layout_by_hand(tmp_path: Path) -> None:
    write(tmp_path, [[1, 2], [300]])
    data = (tmp_path / "train-00000.bin").read_bytes()
    assert len(data) == 64 + 3 * 2
    assert data[:8] == b"DANLUTOK"
    assert struct.unpack("<IIQ", data[8:24]) == (1, 2, 3)
    assert data[24:56].hex() == HASH
    assert data[56:64] == bytes(8)
    assert data[64:] == bytes([1, 0, 2, 0, 0x2C, 1])
    index = pq.read_table(tmp_path / "train-00000.docs.parquet")
    assert index.to_pydict() == {"end": [2, 3], "id": ["doc-0", "doc-1"]}
    assert str(index.schema.field("end").type) == "uint64"


lengths = st.lists(st.integers(1, 30), min_size=1, max_size=25)


@settings(max_examples=40, deadline=None)
@given(lengths, st.integers(1, 60), st.sampled_from([500, 70_000]), st.data())
def test_every_token_leads_to_its_document(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int, vocab_size: int, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("shards")
    documents = [[(17 * i + j) % vocab_size for j in range(size)] for i, size in enumerate(sizes)]
    write(directory, documents, limit=limit, vocab_size=vocab_size)
    shards = TokenShards.open(directory)
    whole = np.concatenate([np.array(ids) for ids in documents])
    assert len(shards) == len(whole)
    assert shards.dtype.itemsize == (2 if vocab_size == 500 else 4)
    assert shards.n_documents == len(documents)
    assert all(shard.count <= max(limit, *sizes) for shard in shards.shards)
    assert shards.document_ends().tolist() == np.cumsum(sizes).tolist()
    start = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.integers(0, len(whole) - start))
    assert shards.read(start, count).tolist() == whole[start : start + count].tolist()
    position = 0
    for i, ids in enumerate(documents):
        expected = (f"doc-{i}", position, position + len(ids))
        assert shards.document(i) == expected
        assert shards.document_at(position) == shards.document_at(position + len(ids) - 1) == expected
        position += len(ids)


def test_positions_outside(tmp_path: Path) -> None:
    write(tmp_path, [[1, 2, 3]])
    shards = TokenShards.open(tmp_path)
    for start, count in ((-1, 1), (0, 4), (4, 0), (0, -1)):
        with pytest.raises(IndexError):
            shards.read(start, count)
    for position in (-1, 3):
        with pytest.raises(IndexError):
            shards.document_at(position)
    with pytest.raises(IndexError):
        shards.document(1)


def test_a_document_longer_than_a_shard_is_kept_whole(tmp_path: Path) -> None:
    write(tmp_path, [[1], list(range(50)), [2]], limit=10)
    assert [shard.count for shard in TokenShards.open(tmp_path).shards] == [1, 50, 1]


def test_vocabulary_decides_the_width() -> None:
    assert dtype_for(65_536).itemsize == 2
    assert dtype_for(65_537).itemsize == 4


def damage(file: Path, offset: int, data: bytes) -> None:
    content = bytearray(file.read_bytes())
    content[offset : offset + len(data)] = data
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("offset", "data", "message"),
    [
        (0, b"NOTOKENS", "is no token shard"),
        (8, b"\x02", "format version 2, this danlu reads 1"),
        (12, b"\x03", "ids of 3 bytes"),
        (12, b"\x04", "its header says 76"),
        (16, b"\x09", "has 70 bytes, its header says 82"),
    ],
)
def test_damaged_header(tmp_path: Path, offset: int, data: bytes, message: str) -> None:
    write(tmp_path, [[1, 2], [3]])
    damage(tmp_path / "train-00000.bin", offset, data)
    with pytest.raises(UserError, match=message):
        TokenShards.open(tmp_path)


def test_cut_files_and_wrong_tokenizer(tmp_path: Path) -> None:
    write(tmp_path, [[1, 2], [3]], limit=2)
    with pytest.raises(UserError, match=r"another tokenizer \(abab.*, not cdcd"):
        TokenShards.open(tmp_path, tokenizer="cd" * 32)
    damage(tmp_path / "train-00001.bin", 24, b"\x00")
    with pytest.raises(UserError, match=r"train-00001.bin was made with another tokenizer"):
        TokenShards.open(tmp_path)
    (tmp_path / "train-00000.bin").write_bytes(b"DANLU")
    with pytest.raises(UserError, match="is no token shard"):
        TokenShards.open(tmp_path)


def test_missing_splits_and_index(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokens of the split 'train'"):
        TokenShards.open(tmp_path / "nowhere")
    write(tmp_path, [[1, 2], [3]])
    with pytest.raises(UserError, match=r"'validation'.*splits there: train"):
        TokenShards.open(tmp_path, "validation")
    (tmp_path / "train-00000.docs.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"docs.parquet cannot be read"):
        TokenShards.open(tmp_path).document_at(0)
    write(tmp_path / "other", [[1]])
    (tmp_path / "train-00000.docs.parquet").write_bytes((tmp_path / "other/train-00000.docs.parquet").read_bytes())
    with pytest.raises(UserError, match=r"does not belong to train-00000.bin"):
        TokenShards.open(tmp_path).document_at(0)
    with pytest.raises(UserError, match=r"tokens.json cannot be read"):
        read_summary(tmp_path)


def test_an_interrupted_writer_leaves_no_valid_shard(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        ShardWriter(tmp_path, "train", dtype=dtype_for(10), tokenizer=HASH, tokens_per_shard=10) as writer,
    ):
        writer.add("a", np.array([1, 2]))
        raise KeyboardInterrupt
    assert (tmp_path / "train-00000.bin").stat().st_size == HEADER.size + 4
    with pytest.raises(UserError, match="is no token shard"):
        TokenShards.open(tmp_path)
