"""The compiled kernels of this room (cpu/), as `danlu.core.native` builds and loads them: one library to run, one to
train, so that whoever only chats does not wait for the other to compile."""

from __future__ import annotations

import ctypes
from pathlib import Path

from danlu.core import native

_FOLDER = Path(__file__).parent / "cpu"
ENGINE = native.Native("engine kernels", _FOLDER, ("step.cpp",), "torch's own operators are, which is slower")
TRAINING = native.Native("training kernels", _FOLDER, ("train.cpp",), "torch's own operators are, which is slower")


def library() -> ctypes.CDLL | None:
    """The kernels of the engine, built if need be; None (and one logged line, once) where they cannot be had."""
    return native.load(ENGINE)


def training_library() -> ctypes.CDLL | None:
    """The kernels of training, likewise."""
    return native.load(TRAINING)


def instructions() -> str:
    """What the libraries are compiled for: avx512-vnni, avx2, neon-dotprod, neon, plain. Raises BuildError."""
    loaded = ctypes.CDLL(str(ENGINE.build()))
    loaded.danlu_instructions.restype = ctypes.c_char_p
    return str(loaded.danlu_instructions().decode())
