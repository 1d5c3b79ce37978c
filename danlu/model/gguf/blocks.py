"""Dequantisation: the packed blocks of a GGUF file back to float32.

A quantised tensor is a row of equal **blocks**. A block holds a fixed number of neighbouring weights of one row as
small integers, and one or two floats that scale them. All numbers are little-endian; `d`, `m`, `dmin` are float16.

| type | n   | bytes | bits   | layout of one block, sizes in bytes                      | value                      |
|------|-----|-------|--------|----------------------------------------------------------|----------------------------|
| F32  | 1   | 4     | 32     | float32                                                  | x                          |
| F16  | 1   | 2     | 16     | float16                                                  | x                          |
| BF16 | 1   | 2     | 16     | the upper half of a float32                              | x                          |
| Q4_0 | 32  | 18    | 4.5    | d(2) nibbles(16)                                         | d * (q - 8)                |
| Q4_1 | 32  | 20    | 5      | d(2) m(2) nibbles(16)                                    | d * q + m                  |
| Q5_0 | 32  | 22    | 5.5    | d(2) fifth bits(4) nibbles(16)                           | d * (q - 16)               |
| Q5_1 | 32  | 24    | 6      | d(2) m(2) fifth bits(4) nibbles(16)                      | d * q + m                  |
| Q8_0 | 32  | 34    | 8.5    | d(2) int8(32)                                            | d * q                      |
| Q4_K | 256 | 144   | 4.5    | d(2) dmin(2) scales(12) nibbles(128)                     | d*scale * q - dmin*minimum |
| Q5_K | 256 | 176   | 5.5    | d(2) dmin(2) scales(12) fifth bits(32) nibbles(128)      | d*scale * q - dmin*minimum |
| Q6_K | 256 | 210   | 6.5625 | low nibbles(128) high bit pairs(64) int8 scales(16) d(2) | d*scale * (q - 32)         |

`n` values a block, `bits` a value.

**Order of the nibbles.** In the 32-value types byte j holds value j (low nibble) and value j + 16 (high nibble), so
that one AND and one shift of a 16-byte register give sixteen neighbours each. The K types do the same with 32 bytes:
byte l of group g holds values 64 g + l and 64 g + 32 + l. Bit i of the fifth bits belongs to value i in Q5_0/Q5_1;
in Q5_K bit s of byte l belongs to value l of sub-block s.

**The twelve scale bytes** of Q4_K and Q5_K hold eight 6-bit scales and eight 6-bit minimums, one pair for each
sub-block of 32 values. With b the bytes:

    scale 0..3   = b[0..3] & 63                minimum 0..3 = b[4..7] & 63
    scale 4..7   = (b[8..11] & 15) | (b[0..3] >> 6) << 4
    minimum 4..7 = (b[8..11] >> 4) | (b[4..7] >> 6) << 4

Worked example, Q4_0: the 18 bytes ``00 38  f0 1f 88 88 ... 88`` (d = 0.5 as float16, then 16 bytes of nibbles).
Byte 0 is f0: value 0 has q = 0, so 0.5 * (0 - 8) = -4.0, and value 16 has q = 15, so 0.5 * (15 - 8) = 3.5. Byte 1 is
1f: value 1 is 0.5 * (15 - 8) = 3.5 and value 17 is 0.5 * (1 - 8) = -3.5. Every 88 gives q = 8 twice, which is 0.0.

    >>> block = bytes([0x00, 0x38, 0xF0, 0x1F]) + bytes([0x88] * 14)
    >>> values = dequantize(np.frombuffer(block, np.uint8), "Q4_0")
    >>> values[[0, 1, 2, 16, 17, 18]].tolist()
    [-4.0, 3.5, 0.0, 3.5, -3.5, 0.0]

Everything here is a handful of numpy operations over an array of blocks `[n, bytes]`; the caller cuts a big tensor
into slices (`gguf.GGUFFile.tensor`), so that intermediate arrays stay in the processor's cache and memory stays flat.
The arithmetic is float32 in the order that the format's reference implementation uses, so results are bit-equal.

Source: the GGUF specification and the block structures it names (ggml `block_q4_0` ... `block_q6_K`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class BlockType:
    """One row of the table above: how many values a block holds, in how many bytes, and how to unpack `[n, bytes]`."""

    name: str
    values: int
    size: int
    unpack: Callable[[Bytes], Floats]  # [n, size] -> [n, values]


def dequantize(raw: Bytes, type_name: str) -> Floats:
    """Unpack whole blocks: `raw` uint8 `[n_blocks * size]` -> float32 `[n_blocks * values]`, a new array.

    Raises ValueError when `raw` is not a whole number of blocks and KeyError for a type outside `BLOCK_TYPES`.
    """
    block = BLOCK_TYPES[type_name]
    if raw.size % block.size:
        raise ValueError(f"{raw.size} bytes are not a whole number of {type_name} blocks of {block.size} bytes")
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged scale may be inf or nan: the values say so too
        return block.unpack(raw.reshape(-1, block.size)).reshape(-1)


def _half(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of every block, as float32 `[n, 1]`."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """`[..., k]` bytes -> `[..., 2 k]`: all low nibbles, then all high nibbles."""
    return np.concatenate((packed & 15, packed >> 4), axis=-1)


def _fifth_bits(packed: Bytes) -> Bytes:
    """Four bytes a block -> `[n, 32]`, 16 where the bit is set: bit i belongs to value i."""
    return np.unpackbits(packed, axis=-1, bitorder="little") << np.uint8(4)


def _f32(blocks: Bytes) -> Floats:
    return np.ascontiguousarray(blocks).view("<f4").astype(np.float32)


def _f16(blocks: Bytes) -> Floats:
    return _half(blocks, 0)


def _bf16(blocks: Bytes) -> Floats:
    upper = np.ascontiguousarray(blocks).view("<u2").astype(np.uint32)
    return (upper << 16).view(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    q = _nibbles(blocks[:, 2:]).view(np.int8) - np.int8(8)  # [n, 32]
    return _half(blocks, 0) * q.astype(np.float32)


def _q4_1(blocks: Bytes) -> Floats:
    q = _nibbles(blocks[:, 4:])  # [n, 32]
    return _half(blocks, 0) * q.astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:
    q = (_nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])).view(np.int8) - np.int8(16)  # [n, 32]
    return _half(blocks, 0) * q.astype(np.float32)


def _q5_1(blocks: Bytes) -> Floats:
    q = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])  # [n, 32]
    return _half(blocks, 0) * q.astype(np.float32) + _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _scales_and_minimums(b: Bytes) -> tuple[Floats, Floats]:
    """The twelve packed bytes `[n, 12]` -> eight scales and eight minimums, float32 `[n, 8]` each."""
    first, second, third = b[:, 0:4], b[:, 4:8], b[:, 8:12]
    scales = np.concatenate((first & 63, (third & 15) | (first >> 6) << 4), axis=1)
    minimums = np.concatenate((second & 63, (third >> 4) | (second >> 6) << 4), axis=1)
    return scales.astype(np.float32), minimums.astype(np.float32)


def _k_affine(blocks: Bytes, q: Bytes) -> Floats:
    """d * scale * q - dmin * minimum for Q4_K and Q5_K; q is `[n, 8, 32]`, the header is the first 16 bytes."""
    scales, minimums = _scales_and_minimums(blocks[:, 4:16])
    scale = (_half(blocks, 0) * scales)[:, :, None]  # [n, 8, 1]
    minimum = (_half(blocks, 2) * minimums)[:, :, None]
    return scale * q.astype(np.float32) - minimum


def _q4_k(blocks: Bytes) -> Floats:
    groups = blocks[:, 16:].reshape(-1, 4, 32)
    return _k_affine(blocks, _nibbles(groups).reshape(-1, 8, 32))


def _q5_k(blocks: Bytes) -> Floats:
    groups = blocks[:, 48:].reshape(-1, 4, 32)
    fifth = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[None, :, None]  # [n, 8, 32]
    return _k_affine(blocks, _nibbles(groups).reshape(-1, 8, 32) | (fifth & np.uint8(1)) << np.uint8(4))


def _q6_k(blocks: Bytes) -> Floats:
    # Each half of 128 values: 64 bytes of low nibbles, 32 bytes of bit pairs. Quarter k of 32 values takes its low
    # nibbles from byte 32 * (k % 2) (low half of the byte for k < 2, high half after) and bit pair k.
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts) & 3  # [n, 2, 4, 32]
    q = (low | high << 4).view(np.int8) - np.int8(32)
    scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)  # [n, 16], one per 16 values
    return scale[:, :, None] * q.reshape(-1, 16, 16).astype(np.float32)


BLOCK_TYPES: dict[str, BlockType] = {
    block.name: block
    for block in (
        BlockType("F32", 1, 4, _f32),
        BlockType("F16", 1, 2, _f16),
        BlockType("BF16", 1, 2, _bf16),
        BlockType("Q4_0", 32, 18, _q4_0),
        BlockType("Q4_1", 32, 20, _q4_1),
        BlockType("Q5_0", 32, 22, _q5_0),
        BlockType("Q5_1", 32, 24, _q5_1),
        BlockType("Q8_0", 32, 34, _q8_0),
        BlockType("Q4_K", 256, 144, _q4_k),
        BlockType("Q5_K", 256, 176, _q5_k),
        BlockType("Q6_K", 256, 210, _q6_k),
    )
}
