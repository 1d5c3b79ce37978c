"""Tokens drawn from rows of logits by the compiled library (cpu/sample.h).

The same choice as `distribution` and `draw` of engine/sampling.py, the torch reference, but for rounding: a number that
falls between two tokens within one part in a million may get the other one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.kernels.build import library


def draw_tokens(
    logits: Tensor,
    temperature: Sequence[float],
    top_k: Sequence[int],
    top_p: Sequence[float],
    min_p: Sequence[float],
    uniform: Sequence[float],
) -> list[int] | None:
    """A token for each row of logits [S, V], which have no NaN and at least one finite number each.

    top_k 0 is all of them; uniform is in [0, 1). None where the library cannot do it: another device or dtype, or no
    compiler.
    """
    found = library()
    if found is None or logits.device.type != "cpu" or logits.dtype != torch.float32 or logits.stride(-1) != 1:
        return None
    n, vocab = logits.shape
    start, stride = logits.data_ptr(), logits.stride(0) * logits.itemsize
    rows = (ctypes.c_void_p * n)(*(start + row * stride for row in range(n)))
    ids = (ctypes.c_int32 * n)()
    code = found.danlu_sample(
        n, vocab, rows, (ctypes.c_float * n)(*temperature),
        (ctypes.c_int32 * n)(*top_k), (ctypes.c_double * n)(*top_p), (ctypes.c_float * n)(*min_p),
        (ctypes.c_double * n)(*uniform), ids,
    )  # fmt: skip
    assert code == 0, "a choice out of range: sampling settings are checked where they are made"
    return list(ids)
