"""Muon's update of many matrices in one call (cpu/muon.h): momentum, orthogonalisation, decay, all in a core's cache.

The reference is `Optimizer._muon` in train/optim.py, which is also the way for what this declines: other devices and
dtypes, matrices that a cache does not hold, processors where torch's products are faster.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from danlu.kernels.call import kernels, products

SIDES = 16  # rows and columns are multiples of it: whole vectors
MOST = 1 << 18  # numbers of a matrix; beyond, a product that is cut for the cache is faster


class Matrix(NamedTuple):
    """One matrix, [m, n] each; rows of a larger tensor may be one. Weights and momentum are mutated."""

    weights: Tensor
    momentum: Tensor
    gradient: Tensor


class _Matrix(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weights", "momentum", "gradient")),
        ("rows", ctypes.c_int32),
        ("columns", ctypes.c_int32),
    ]


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_float) for name in ("blend", "decay", "scale")),
        ("iterations", ctypes.c_int32),
        ("coefficients", ctypes.c_void_p),
    ]


def muon_update_(
    matrices: Sequence[Matrix],
    polynomials: Sequence[tuple[float, float, float]],
    *,
    momentum: float,
    decay: float,
    scale: float,
    dtype: torch.dtype,
) -> Sequence[Matrix]:
    """Update the matrices with products in `dtype`; returns those it declined, with which nothing was done.

    decay multiplies the weights; scale sqrt(max(m, n)) multiplies the orthogonalised momentum that is taken off them.
    """
    if dtype != torch.bfloat16 or not products():
        return matrices
    taken = [matrix for matrix in matrices if all(_fits(tensor) for tensor in matrix)]
    items = (_Matrix * len(taken))(
        *(_Matrix(m.weights.data_ptr(), m.momentum.data_ptr(), m.gradient.data_ptr(), *m.weights.shape) for m in taken)
    )
    numbers = [number for polynomial in polynomials for number in polynomial]
    coefficients = (ctypes.c_float * len(numbers))(*numbers)
    step = _Step(1 - momentum, decay, scale, len(polynomials), ctypes.addressof(coefficients))
    kernels().danlu_muon(torch.get_num_threads(), len(taken), ctypes.byref(items), ctypes.byref(step))
    return [matrix for matrix in matrices if not all(_fits(tensor) for tensor in matrix)]


def _fits(t: Tensor) -> bool:
    on_cpu = t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous()
    return on_cpu and t.numel() <= MOST and not any(size % SIDES for size in t.shape)
