"""The compiled loops of this folder (cpp/), and what stands in for them where there is no compiler.

Records are rows of W unsigned 32-bit words, the most significant first; sorting them is comparing words from the
left. Every function here takes and returns arrays; who needs the library itself (walk.py) asks `library()` for it.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core import native

DUPLICATES = native.Native(
    "dedup", Path(__file__).parent / "cpp", ("dedup.cpp",), "numpy and Python do the same, several times slower"
)

P, I32, I64, U64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_uint64
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "dedup_sort": (ctypes.c_bool, (P, I64, I32)),
    "dedup_band_keys": (None, (P, I64, P, I32, P)),
    "dedup_walk_new": (P, (P, P, P, I32, P, P, P, I32, I32, I32, I64, I32, I32)),
    "dedup_walk_free": (None, (P,)),
    "dedup_walk_compared": (I64, (P,)),
    "dedup_walk_feed": (I64, (P, P, I64, P)),
    "dedup_walk_end_of_band": (None, (P,)),
    "dedup_walk_agreements": (ctypes.c_bool, (P, P, P, I64, P)),
    "dedup_replay": (None, (P, I64, P, P, I32)),
    "dedup_flatten": (None, (P, I64)),
    "dedup_winnow": (None, (P, I64, I64, P, P)),
    "dedup_windows": (None, (P, I64, I64, U64, P)),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled loops, built if need be; None where they cannot be had (`danlu.core.native` says why)."""
    loaded = native.load(DUPLICATES)
    if loaded is not None:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    return loaded


def address(array: NDArray[Any]) -> int:
    """Where the array's memory begins; it must be contiguous and outlive the call."""
    assert array.flags.c_contiguous
    return int(array.ctypes.data)


def sort_records(records: NDArray[np.uint32], compiled: bool = True) -> NDArray[np.uint32]:
    """uint32 [N, W] in ascending order. Sorted in place where the compiled loops are there; use what is returned."""
    loaded = library() if compiled else None
    if loaded is not None and loaded.dedup_sort(address(records), len(records), records.shape[1]):
        return records
    return records[np.lexsort(records.T[::-1])]


def flatten(parent: NDArray[np.uint32]) -> None:
    """Make every element's parent its root, in place. Parents are never larger than their children."""
    loaded = library()
    if loaded is not None:
        loaded.dedup_flatten(address(parent), len(parent))
        return
    while True:
        above = parent[parent]
        if (above == parent).all():
            return
        parent[:] = above
