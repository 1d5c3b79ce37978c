"""A GGUF file from Python values, small and independent of the reader: for tests."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

CODES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "BF16": 30, "IQ2_XXS": 16}


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(item: Any) -> bytes:
    """The type code and the bytes of one metadata value; lists take the type of their first element."""
    code, data = _typed(item)
    return struct.pack("<I", code) + data


def _typed(item: Any) -> tuple[int, bytes]:
    if isinstance(item, bool):
        return 7, struct.pack("<?", item)
    if isinstance(item, int):
        return (4, struct.pack("<I", item)) if item >= 0 else (5, struct.pack("<i", item))
    if isinstance(item, float):
        return 6, struct.pack("<f", item)
    if isinstance(item, str):
        return 8, string(item)
    parts = [_typed(each) for each in item]
    code = parts[0][0] if parts else 4
    return 9, struct.pack("<IQ", code, len(parts)) + b"".join(data for _, data in parts)


def gguf_bytes(metadata: dict[str, Any], tensors: dict[str, Any], version: int = 3) -> bytes:
    """`tensors`: name -> float32 array, or (type name, shape in numpy's order, raw bytes)."""
    align = metadata.get("general.alignment", 32)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(string(key) + value(item) for key, item in metadata.items())
    body = b""
    for name, tensor in tensors.items():
        if not isinstance(tensor, tuple):
            array = np.ascontiguousarray(tensor, dtype="<f4")
            tensor = ("F32", array.shape, array.tobytes())
        kind, shape, data = tensor
        body += b"\0" * (-len(body) % align)
        head += string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += struct.pack("<IQ", CODES[kind], len(body))
        body += data
    return head + b"\0" * (-len(head) % align) + body


def write_gguf(path: Path, metadata: dict[str, Any], tensors: dict[str, Any], version: int = 3) -> Path:
    path.write_bytes(gguf_bytes(metadata, tensors, version))
    return path
