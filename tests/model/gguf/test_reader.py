from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.model.gguf import reader
from danlu.model.gguf.reader import GGUFFile, open_gguf
from tests.model.gguf.files import gguf_bytes, write_gguf

METADATA = {
    "general.architecture": "llama",
    "a.flag": True,
    "a.number": 7,
    "a.negative": -7,
    "a.decimal": 0.5,
    "a.words": ["春", "", "summer"],
    "a.numbers": [1, 2, 3],
    "a.nested": [[1, 2], [3]],
}
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_metadata_and_tensors_come_back(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", METADATA, {"one": MATRIX, "two": np.ones(5, np.float32)})
    with open_gguf(path) as file:
        assert file.metadata == METADATA
        assert file.architecture == "llama"
        assert file.tensors["one"].shape == (3, 4)
        assert torch.equal(file.tensor("one"), torch.from_numpy(MATRIX))
        assert file.tensor("two", torch.bfloat16).dtype == torch.bfloat16


def test_version_2_and_other_alignment(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"general.alignment": 64, "k": "v"}, {"a": MATRIX, "b": MATRIX + 1}, 2)
    with open_gguf(path) as file:
        assert file.tensors["b"].start % 64 == 0
        assert torch.equal(file.tensor("b"), torch.from_numpy(MATRIX + 1))


def test_chunks_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor read in many pieces by two threads equals the one read at once."""
    raw = np.random.default_rng(1).integers(0, 256, 34 * 1000, dtype=np.uint8)
    raw.reshape(-1, 34)[:, 1] = 0x2C  # sane scales
    path = write_gguf(tmp_path / "m.gguf", {}, {"q": ("Q8_0", (100, 320), raw.tobytes())})
    with open_gguf(path) as file:
        whole = file.tensor("q")
        monkeypatch.setattr(reader, "CHUNK_VALUES", 96)
        assert torch.equal(file.tensor("q"), whole)
        assert torch.equal(file.tensor("q", torch.bfloat16), whole.bfloat16())


def test_truncated_at_every_offset(tmp_path: Path) -> None:
    """Whatever is missing at the end, it is one clear error."""
    whole = gguf_bytes(METADATA, {"one": MATRIX, "two": np.ones(5, np.float32)})
    path = tmp_path / "m.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"truncated|empty"):
            GGUFFile(path)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_damage_is_a_user_error_or_harmless(tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes) -> None:
    whole = bytearray(gguf_bytes(METADATA, {"one": MATRIX, "two": np.ones(5, np.float32)}))
    whole[at : at + len(noise)] = noise
    path = tmp_path_factory.mktemp("noise") / "m.gguf"
    path.write_bytes(whole)
    try:
        with GGUFFile(path) as file:
            file.require_supported_types()
            for name in file.tensors:
                file.tensor(name)
    except UserError as error:
        assert str(path) in error.message


def test_not_gguf(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    for content, message in (
        (b"PK\x03\x04 something else", "not a GGUF file"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            GGUFFile(path)
    with pytest.raises(UserError, match="no such file"):
        GGUFFile(tmp_path / "absent.gguf")
    with pytest.raises(UserError, match="is a directory"):
        GGUFFile(tmp_path)


def test_a_giant_count_allocates_nothing(tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**60)
    path = tmp_path / "m.gguf"
    path.write_bytes(head)
    with pytest.raises(UserError, match="truncated"):
        GGUFFile(path)


def test_unsupported_tensor_type_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {}, {"blk.0.ffn_up.weight": ("IQ2_XXS", (1, 256), bytes(66))})
    with open_gguf(path) as file, pytest.raises(UserError, match=r"blk\.0\.ffn_up\.weight.*IQ2_XXS"):
        file.require_supported_types()
