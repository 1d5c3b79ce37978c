"""How kernels are launched: on the tensor's device, and on Hopper each before the one before it has ended.

Between two kernels a GPU idles for a microsecond or two: the last programs of the one run out, and those of the next
have to be brought up. A decoding step has a hundred and fifty of them, of two to twenty microseconds each. From compute
capability 9.0 on a kernel may be launched while its predecessor is still at work ("programmatic dependent launch"):

    before    [ norm ]       [ qkv: load weights, load x, multiply ]       [ rotate ] ...
    early     [ norm ]
               [ qkv: load weights . . . ][ load x, multiply ]             `wait_turn` is where the dots are
                                           [ rotate: . . . . ][ ...

`wait_turn` lets the next kernel come up and waits until all that went before has been written. What a kernel reads or
writes before it must be nobody's result: in the product of one row these are the weights (row.py).

`DANLU_OVERLAP=off` launches one after the other.
"""

from __future__ import annotations

import functools
import os
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def on(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device: make the tensor's the current one."""
    if not tensor.is_cuda or torch.cuda.current_device() == tensor.device.index:
        return nullcontext()
    return torch.cuda.device(tensor.device)


def early(tensor: Tensor) -> dict[str, bool]:
    """What a kernel that calls `wait_turn` is launched with."""
    if tensor.is_cuda and _overlaps(tensor.device.index):
        return {"EARLY": True, "launch_pdl": True}
    return {"EARLY": False}


@functools.cache
def _overlaps(device: int) -> bool:
    if os.environ.get("DANLU_OVERLAP", "").lower() in ("off", "0", "no") or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def wait_turn(EARLY: tl.constexpr):
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n: the sizes that Triton's tiles have."""
    return 1 << (n - 1).bit_length()
