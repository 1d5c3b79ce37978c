"""Literals: which of a few hundred fixed strings occur in a text, at the speed of memory.

Word lists, markers of boilerplate and prefixes of keys are all the same question, and for nearly every text the answer
is "none". A loop of `in` asks it once a literal and costs 50 ms/MB for a hundred of them, a regular expression of
alternatives as much; `literals.cpp` asks for all of them in one pass, about 1 ms/MB. What is found is then looked
at by the caller's pattern, in Python, where it can be read.

Letters of ASCII match in any case, everything else byte for byte. Without a compiler the loop of `in` answers the same.

>>> LiteralSet(("ignore all", "忽略以上", "x")).present("Please IGNORE ALL of it")
('ignore all',)
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from danlu.core import native

LITERALS = native.Native("literals", Path(__file__).parent, ("literals.cpp",), "literals are looked for one by one")
_WINDOW = 4
# How common bytes are in English and in UTF-8 of Chinese; a window of rare ones is compared in vain less often.
_COMMON = {byte: rank for rank, byte in enumerate(reversed(b" etaoinshrdlcumwfgypbvk"), start=1)}


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = native.load(LITERALS)
    if library is not None:
        pointer = ctypes.c_void_p
        library.literals_new.argtypes = [ctypes.c_char_p, pointer, pointer, ctypes.c_int32]
        library.literals_new.restype = pointer
        library.literals_find.argtypes = [pointer, ctypes.c_char_p, ctypes.c_int64, pointer]
        library.literals_find.restype = ctypes.c_int32
    return library


class LiteralSet:
    """A fixed set of literals; built when first asked, kept for the life of the process."""

    def __init__(self, literals: Iterable[str]) -> None:
        self.literals = tuple(dict.fromkeys(literals))
        self._bytes = [literal.encode().lower() for literal in self.literals]  # bytes.lower folds ASCII alone
        self._long = [i for i, data in enumerate(self._bytes) if len(data) >= _WINDOW]
        self._short = [i for i, data in enumerate(self._bytes) if len(data) < _WINDOW]
        self._flags = ctypes.c_char * len(self._long)  # an array of zeros when called; making the type is slow
        self._handle: int | None = None

    def present(self, text: str) -> tuple[str, ...]:
        """The literals that occur in `text`, in the order they were given."""
        data = text.encode("utf-8", "surrogatepass")
        library = _library()
        if library is None:
            folded = data.lower()
            return tuple(self.literals[i] for i, literal in enumerate(self._bytes) if literal in folded)
        found = []
        if self._long:
            flags = self._flags()
            if library.literals_find(self._handle or self._made(library), data, len(data), flags):
                found = [self._long[i] for i, flag in enumerate(flags.raw) if flag != 0]
        if self._short:
            folded = data.lower()
            found += [i for i in self._short if self._bytes[i] in folded]
            found.sort()
        return tuple(self.literals[i] for i in found)

    def _made(self, library: ctypes.CDLL) -> int:
        if self._handle is None:
            literals = [self._bytes[i] for i in self._long]
            ends = np.cumsum([len(literal) for literal in literals], dtype=np.int32)
            windows = np.array([_rarest_window(literal) for literal in literals], dtype=np.int32)
            blob = b"".join(literals)
            self._handle = library.literals_new(blob, ends.ctypes.data, windows.ctypes.data, len(literals))
        assert self._handle is not None
        return self._handle

    def __reduce__(self) -> tuple[type[LiteralSet], tuple[tuple[str, ...]]]:
        return LiteralSet, (self.literals,)  # a pointer means nothing in another process


def _rarest_window(literal: bytes) -> int:
    places = range(len(literal) - _WINDOW + 1)
    return min(places, key=lambda i: sum(_COMMON.get(byte, 0) for byte in literal[i : i + _WINDOW]))
