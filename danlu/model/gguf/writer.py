"""The container, written from front to back: `reader.py` says how it lies in bytes.

The sizes of all tensors follow from their shapes and types, so that the table is written before a single number is
known, and tensors stream through: memory holds one piece of one tensor.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from danlu.model.gguf.blocks import BLOCK_TYPES, Bytes
from danlu.model.gguf.reader import ARRAY, MAGIC, SCALARS, STRING, TENSOR_TYPES

VERSION, ALIGNMENT = 3, 32
_CODES = {name: code for code, name in TENSOR_TYPES.items()}
_UINT32, _INT32, _FLOAT32, _BOOL, _UINT64, _INT64 = 4, 5, 6, 7, 10, 11


@dataclass(frozen=True)
class NewTensor:
    """A line of the table. `shape` is in numpy's order; its last dimension is a whole number of blocks of `type`."""

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def size(self) -> int:
        block = BLOCK_TYPES[self.type]
        assert self.shape[-1] % block.values == 0, self
        return math.prod(self.shape) // block.values * block.size


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Sequence[NewTensor], pieces: Iterable[Bytes]) -> None:
    """`pieces` are the bytes of the tensors in the order of the table; one piece never spans two tensors.

    Whole numbers become uint32 (uint64 where too large, int32 where negative), in lists int32; floats float32.
    """
    table, offset = [], 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        table.append(_string(tensor.name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
        table.append(struct.pack("<IQ", _CODES[tensor.type], offset))
        offset += _aligned(tensor.size)
    entries = (_string(key) + _typed(value) for key, value in metadata.items())
    stream = iter(pieces)
    with path.open("wb") as file:
        file.write(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
        file.writelines(entries)
        file.writelines(table)
        file.write(bytes(_aligned(file.tell()) - file.tell()))
        for tensor in tensors:
            left = tensor.size
            while left > 0:
                left -= file.write(next(stream).data)
            assert left == 0, f"{tensor.name} got {-left} bytes too many"
            file.write(bytes(_aligned(tensor.size) - tensor.size))
        assert next(stream, None) is None, "there are more bytes than the table has"  # and its last checks are made


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _typed(value: Any) -> bytes:
    """Type code and bytes of a metadata value."""
    code = _code(value)
    head = struct.pack("<I", code)
    if code == STRING:
        return head + _string(value)
    if code != ARRAY:
        return head + struct.pack("<" + SCALARS[code], value)
    kind = {_UINT32: _INT32}.get(_code(value[0]), _code(value[0])) if value else _INT32
    head += struct.pack("<IQ", kind, len(value))
    if kind == STRING:
        return head + b"".join(map(_string, value))
    return head + np.array(value, "<" + SCALARS[kind]).tobytes()


def _code(value: Any) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return (_UINT32 if value < 1 << 32 else _UINT64) if value >= 0 else _INT32 if value >= -(1 << 31) else _INT64
    if isinstance(value, float):
        return _FLOAT32
    return STRING if isinstance(value, str) else ARRAY
