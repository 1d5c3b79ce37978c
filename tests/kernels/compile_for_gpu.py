"""Compile the kernels of kernels/gpu for an NVIDIA GPU that is not there. test_gpu_compile.py reads what this prints.

    python -m tests.kernels.compile_for_gpu 80        compute capability; one JSON object a line, one for each kernel

The wrappers are called as the engine calls them, with CPU tensors. Instead of launching, Triton compiles for the target
down to machine code, by the ptxas that it brings along; nothing runs. That shows what the interpreter does not: shapes
and types that the matrix unit does not take, and tiles that do not fit a multiprocessor. It is a program of its own
because a process either interprets kernels or compiles them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from danlu.kernels.gpu import activation, attention, best, matrix, norm, rotary, row
from danlu.kernels.gpu.batch import PagedBatch


class AbsentGPU:
    """As much of a driver as compiling asks for."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def main(capability: int) -> None:
    driver.set_active(AbsentGPU(capability))
    if capability >= 90:
        for file in (activation, attention, best, matrix, norm, rotary, row):
            file.early = lambda tensor: {"EARLY": True, "launch_pdl": True}  # type: ignore[attr-defined]
    JITFunction.__getitem__ = compile_instead  # type: ignore[method-assign, assignment]
    by_row(torch.bfloat16)
    for bits in (8, 4):
        for rows in (1, 8, 64, 80):
            for zeros in (False, True):
                linear(torch.bfloat16, bits, rows, zeros)
    row.linear_row(torch.zeros(1, 2048, dtype=torch.bfloat16), torch.zeros(64, 2048, dtype=torch.bfloat16))
    likeliest(torch.bfloat16)
    attend(torch.bfloat16, head_dim=64, window=50)
    attend(torch.bfloat16, head_dim=128)
    attend(torch.float16, head_dim=256)
    linear(torch.float16, 4, 64)
    attend(torch.float32, head_dim=80)
    linear(torch.float32, 8, 64)


def compile_instead(kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
    def launch(*args: Any, **kwargs: Any) -> None:
        made = kernel.warmup(*args, grid=grid, **kwargs)
        given = [f"{list(arg.shape)} {arg.dtype}" for arg in args if isinstance(arg, Tensor)]
        size = len(made.asm["cubin"])
        print(json.dumps({"kernel": kernel.__name__, "given": given, "shared": made.metadata.shared, "size": size}))

    return launch


def by_row(dtype: torch.dtype) -> None:
    x = torch.zeros(2, 64, dtype=dtype)
    activation.swiglu(x)
    norm.add_rms_norm(x, None, x[0], 1e-6)
    norm.add_rms_norm(x, x, x[0], 1e-6)
    qkv, cache, slots = torch.zeros(2, 4, 64, dtype=dtype), torch.zeros(8, 1, 64, dtype=dtype), torch.tensor([0, 1])
    rotary.rotate_and_store(qkv, cache, cache, slots, None, None)
    angles = torch.zeros(2, 32)
    rotary.rotate_and_store(qkv, cache, cache, slots, (angles, angles), (x[0], x[0], 1e-6))


def linear(dtype: torch.dtype, bits: int, rows: int, zeros: bool = False) -> None:
    """Wide enough for two splits of K."""
    weight = torch.zeros(64, 2048, dtype=torch.int8) if bits == 8 else torch.zeros(64, 256, dtype=torch.int32)
    scale = torch.zeros(64, 1) if bits == 8 else torch.zeros(64, 64, dtype=torch.float16)
    zero = torch.zeros(scale.shape, dtype=torch.int8) if zeros else None
    matrix.quantized_linear(torch.zeros(rows, 2048, dtype=dtype), weight, scale, zero, torch.zeros(64, dtype=dtype))


def likeliest(dtype: torch.dtype) -> None:
    found = best.best_tokens(torch.zeros(2, 10_000, dtype=dtype))
    ids, positions, slots = torch.zeros(3, 2, dtype=torch.int64)
    best.follow(found, ids, positions, slots, torch.zeros(2, 19, dtype=torch.int32), 16)


def attend(dtype: torch.dtype, head_dim: int, window: int | None = None) -> None:
    """A short sequence with one split or, without a window, four; and a long one."""
    cache = torch.zeros(64, 16, 2, head_dim, dtype=dtype)
    table = list(range(64))
    batch = PagedBatch.of([(0, 1, 900, table), (1, 20, 40, table)], "cpu")
    attention.paged_attention(torch.zeros(21, 8, head_dim, dtype=dtype), cache, cache, batch, 0.1, window)


if __name__ == "__main__":
    main(int(sys.argv[1]))
