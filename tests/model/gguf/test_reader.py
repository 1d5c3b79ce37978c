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


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    good = gguf_bytes({"general.architecture": "llama", "tokens": ["a", "bb"]}, {})
    path = tmp_path / "m.gguf"
    path.write_bytes(good.replace(b"llama", b"\xff\xfe\xff\xfe\xff"))
    with pytest.raises(UserError, match=r"general\.architecture is not UTF-8"):
        GGUFFile(path)
    path.write_bytes(good.replace(b"bb", b"\xe7\x82"))  # half a character is a token as good as others
    with GGUFFile(path) as file:
        assert file.metadata["tokens"][1].encode("utf-8", "surrogateescape") == b"\xe7\x82"


def test_tensors_lie_one_after_another(tmp_path: Path) -> None:
    """A wrong type or offset shows there: the bytes would be read as other numbers."""
    tensors = {"a": np.ones((4, 32), np.float32), "b": np.ones((2, 32), np.float32)}
    good, path = gguf_bytes({}, tensors), tmp_path / "m.gguf"
    entry = good.index(b"a", 24) + 1 + 4 + 16  # behind its name, number of dimensions and both of these
    for at, data in ((entry, struct.pack("<I", 8)), (entry + 4, struct.pack("<Q", 32))):
        path.write_bytes(good[:at] + data + good[at + len(data) :])
        with pytest.raises(UserError, match=r"begins at .* of the data, not at"):
            GGUFFile(path)
    path.write_bytes(good[: entry - 20] + struct.pack("<I", 0) + good[entry - 16 :])
    with pytest.raises(UserError, match="has 0 dimensions"):
        GGUFFile(path)


def test_unsupported_tensor_type_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {}, {"blk.0.ffn_up.weight": ("IQ2_XXS", (1, 256), bytes(66))})
    with open_gguf(path) as file, pytest.raises(UserError, match=r"blk\.0\.ffn_up\.weight.*IQ2_XXS"):
        file.require_supported_types()
