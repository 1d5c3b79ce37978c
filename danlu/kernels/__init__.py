"""kernels: the hot loops, each beside a plain reference that says what it must compute.

    int8    weights as signed bytes with one scale per output channel: linear layer and embedding table

A kernel is a function of tensors and knows nothing of models, files or configs. For every kernel there is a
reference in a few lines of ordinary torch, and a test that holds the two together; which of several routes a call
takes (by device, dtype and shape) is decided in one place in its file. With no compiler and no GPU everything here
still works on the operators that come with torch.
"""

from __future__ import annotations

from typing import Any

STAGES: tuple[str, ...] = ()

_EXPORTS = ("int8_linear", "int8_embedding", "quantize_rows", "dequantize_rows")


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        from danlu.kernels import int8

        return getattr(int8, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
