from __future__ import annotations

import doctest

import numpy as np
import pytest

from danlu.model.gguf import blocks as module
from danlu.model.gguf.blocks import BLOCK_TYPES, dequantize


def test_docstring_example() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_equal_to_the_reference(name: str) -> None:
    """Random bytes of every type, to the bit, also where a scale is inf or nan."""
    gguf = pytest.importorskip("gguf")
    block = BLOCK_TYPES[name]
    raw = np.random.default_rng(0).integers(0, 256, (3000, block.size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name]).reshape(-1)
    found = dequantize(raw.reshape(-1), name)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_sizes_are_those_of_the_format(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]] == (BLOCK_TYPES[name].values, BLOCK_TYPES[name].size)


def test_q5_0_by_hand() -> None:
    """d = 2; nibble 3 with the fifth bit is 19 - 16 = 3; nibble 15 without it is 15 - 16 = -1."""
    fifth = (1 << 0) | (1 << 17)
    block = np.float16(2).tobytes() + fifth.to_bytes(4, "little") + bytes([0xF3, 0x40]) + bytes(14)
    values = dequantize(np.frombuffer(block, np.uint8), "Q5_0")
    assert values[0] == 2 * (3 + 16 - 16)
    assert values[16] == 2 * (15 - 16)
    assert values[17] == 2 * (4 + 16 - 16)
    assert values[2] == 2 * -16


def test_q6_k_by_hand() -> None:
    """The last value of a block: low nibble in the high half of byte 127, bit pair 3 of byte 191, the last scale."""
    block = np.zeros(210, np.uint8)
    block[127], block[191] = 0xA0, 0b1100_0000  # q = 10 + 3 * 16 - 32 = 26
    block[207] = 0xFE  # scale -2
    block[208:] = np.frombuffer(np.float16(0.5).tobytes(), np.uint8)
    assert dequantize(block, "Q6_K")[255] == 0.5 * -2 * 26


def test_a_piece_of_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number of Q8_0 blocks"):
        dequantize(np.zeros(35, np.uint8), "Q8_0")
