"""The compiled kernels of this room (cpu/), as `danlu.core.native` builds and loads them."""

from __future__ import annotations

import ctypes
from pathlib import Path

from danlu.core import native

CPU = native.Native(
    "kernels", Path(__file__).parent / "cpu", ("step.cpp", "train.cpp"), "torch's own operators are, which is slower"
)


def library() -> ctypes.CDLL | None:
    """The compiled kernels, built if need be; None (and one logged line, once) where they cannot be had."""
    return native.load(CPU)


def instructions() -> str:
    """The instructions the library was compiled for: avx512-vnni, avx2, neon, plain. Raises BuildError."""
    loaded = ctypes.CDLL(str(CPU.build()))
    loaded.danlu_instructions.restype = ctypes.c_char_p
    return str(loaded.danlu_instructions().decode())
