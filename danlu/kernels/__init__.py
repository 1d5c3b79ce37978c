"""kernels: the hot loops, each beside a plain reference that says what it must compute.

    grid.py      weights as whole numbers times a scale, in 8 or 4 bits: what they mean, and how they are found
    quantized.py linear layer and embedding table with such weights
    decoder.py   a whole decoder in compiled C++ (cpu/): one call a step
    rows.py, causal.py, linear.py, muon.py    what a training step on a CPU does, in passes as few as can be
    call.py      when these may be used, and how they are reached
    build.py     compiles the C++ for this machine, once
    gpu/         the same loops on a GPU, in Triton

A kernel is a function of tensors and knows nothing of models, files or configs. For every kernel there is a
reference in a few lines of ordinary torch, and a test that holds the two together; which of several routes a call
takes (by device, dtype and shape) is decided in one place in its file. With no compiler and no GPU everything here
still works on the operators that come with torch.
"""

from __future__ import annotations

from typing import Any

STAGES: tuple[str, ...] = ()

_EXPORTS = {
    "Grid": "grid", "fit": "grid", "quantized_linear": "quantized", "quantized_embedding": "quantized",
    "Decoder": "decoder", "library": "build",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        from importlib import import_module

        return getattr(import_module(f"danlu.kernels.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
