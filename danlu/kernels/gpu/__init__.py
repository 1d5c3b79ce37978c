"""The hot loops on a GPU, in Triton. One door: `enabled(device)` says whether a tensor's device takes them.

    batch.py       which rows belong to which sequence, and where its keys lie
    attention.py   queries against the paged cache: decoding with the keys split, chunks of a prompt
    varlen.py      the same for chunks of a prompt, by torch's own kernel where it has one
    matrix.py      x W^T with weights of 8 and 4 bits, widened in registers
    row.py         the same for a single row, and with weights of 16 bits as well
    widen.py       numbers of 8 and 4 bits as floats
    norm.py        residual sum and RMSNorm in one pass
    rotary.py      query and key norm, rotary positions, and keys and values written to their slots
    activation.py  silu(gate) * up
    launch.py      on which device, and on Hopper before the kernel before has ended
    best.py        the likeliest token of every row, and the inputs of the step that follows from it

A kernel is a program that runs many times side by side, each time with other numbers for `tl.program_id`; each file
draws what one program computes. Beside every kernel is its reference in ordinary torch. What a kernel is given is
checked in Python first (`check`): on a GPU a wrong shape is not an error but other people's memory.

Numbers: tensors may be float32, bfloat16 or float16; sums are float32. How a sum is cut into pieces follows from its
own length, never from how many programs there are, so among launches of one kind (few rows or many; each file says
where it draws the line) a row's bits do not depend on the rest of the batch. torch's own matrix products promise less.

Triton comes with PyTorch's CUDA builds. Where it is missing, or the GPU is older than Ampere (compute capability 8.0),
or a first launch fails, torch's own operators are used and one line says so.

| variable           | meaning                                                                                  |
|--------------------|------------------------------------------------------------------------------------------|
| `DANLU_KERNELS`    | `off`: no kernels, neither these nor the compiled ones                                   |
| `DANLU_VARLEN`     | `off`: chunks of a prompt by our own kernel, not by torch's (varlen.py)                   |
| `DANLU_OVERLAP`    | `off`: no kernel is launched before the one before it has ended (launch.py)              |
| `DANLU_GRAPHS`     | `off`: decoding steps are not recorded (engine/graphs.py)                                |
| `TRITON_INTERPRET` | `1`: Triton's interpreter runs the kernels on CPU tensors (slow: for tests and debugging)|
"""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

import torch

from danlu.core.native import switched_off

MAX_HEAD_DIM = 256

log = logging.getLogger("danlu")

_EXPORTS = {
    "PagedBatch": "batch", "paged_attention": "attention", "quantized_linear": "matrix", "takes": "matrix",
    "linear_row": "row", "add_rms_norm": "norm", "rotate_and_store": "rotary", "swiglu": "activation",
    "best_tokens": "best", "follow": "best",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        from importlib import import_module

        return getattr(import_module(f"danlu.kernels.gpu.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def enabled(device: torch.device) -> bool:
    """Whether the kernels of this package run on `device`. Decided at the first question, logged once."""
    return _enabled(device.type)


@functools.cache
def _enabled(device_type: str) -> bool:
    if switched_off() or device_type != ("cpu" if interpreted() else "cuda"):
        return False
    reason = _obstacle(device_type)
    if reason:
        log.warning("the Triton kernels are not used (%s); torch's own operators are, which is slower", reason)
        return False
    log.info("attention, norms and quantised matrices run on Triton kernels")
    return True


def interpreted() -> bool:
    """Whether Triton was told to interpret kernels on the CPU. It must have been, before it is first imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _obstacle(device_type: str) -> str | None:
    """Why the kernels cannot be used, in one line. Like every probe of danlu it launches and compares."""
    if device_type == "cuda" and torch.cuda.get_device_capability() < (8, 0):
        return f"{torch.cuda.get_device_name()} is older than compute capability 8.0"
    try:
        from danlu.kernels.gpu.activation import swiglu, swiglu_reference

        x = torch.linspace(-2, 2, 64, device=device_type).view(2, 32)
        if not torch.allclose(swiglu(x), swiglu_reference(x), atol=1e-5):
            return "a first launch gave wrong numbers"
    except ImportError:
        return "there is no package triton"
    except Exception as error:  # no C compiler for Triton's launcher, a driver too old, a cache that is not writable
        return f"a first launch failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None
