"""How the kernels of a training step (cpu/train.cpp) are reached: when they may be used, and what they are told.

They take float32 and bfloat16 on a CPU, while a gradient is recorded. Everywhere else torch's operators are as good:
without a gradient each of these has one fused kernel there, and a compiler fuses the formula itself.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from danlu.kernels.build import training_library

DTYPES = {torch.float32: 0, torch.bfloat16: 1}


def training_on_cpu(x: Tensor) -> bool:
    """Whether x is part of eager training on the CPU."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def compiled(*tensors: Tensor) -> bool:
    """Whether the compiled library takes these tensors in a training step."""
    known = all(t.dtype in DTYPES and t.numel() > 0 for t in tensors)
    return known and training_on_cpu(tensors[0]) and kernels() is not None


def products() -> bool:
    """Whether the library's products of bfloat16 are there and as fast as torch's, which use AMX where there is AMX."""
    return kernels() is not None and bool(kernels().danlu_in_pairs())


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype a matrix product gives x: autocast's, where that is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@functools.lru_cache(maxsize=1)
def kernels() -> Any:
    """The compiled library with the types of its arguments, or None."""
    found = training_library()
    if found is None:
        return None
    address, number, real, wide = ctypes.c_void_p, ctypes.c_int, ctypes.c_float, ctypes.c_int64
    for name, arguments in {
        "rms_norm": [*[number] * 3, real, *[number] * 3, *[address] * 6],
        "rms_norm_backward": [*[number] * 6, *[address] * 8],
        "swiglu": [*[number] * 4, *[address] * 2],
        "swiglu_backward": [*[number] * 4, *[address] * 3],
        "softmax_cross_entropy": [*[number] * 4, *[address] * 2, number, address],
        "norm_and_rotate": [number, address, number, *[address] * 2],
        "norm_and_rotate_backward": [number, address, number, *[address] * 7],
        "causal_attention": [number, address, number, *[address] * 5],
        "causal_attention_backward": [number, address, number, *[address] * 9, wide],
        "in_pairs": [],
        "linear": [*[number] * 4, *[address] * 3],
        "linear_backward": [*[number] * 4, *[address] * 5],
        "linear_cross_entropy": [*[number] * 5, *[address] * 7],
        "muon": [number, number, address, address],
    }.items():
        function = getattr(found, f"danlu_{name}")
        function.argtypes, function.restype = arguments, number if name == "in_pairs" else None
    return found
