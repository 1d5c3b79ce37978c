"""SwiGLU in one pass: [..., 2F] -> [..., F], silu(gate) * up, gate being the first half of a row.

    row      | gate: F numbers           | up: F numbers             |
    program     [BLOCK] ---- silu * ------- [BLOCK]  -> [BLOCK] of the output row

In plain torch this is two kernels and a round trip of silu(gate) through memory, rounded to 16 bits on the way; here
both halves are read once and what is between them stays in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from danlu.kernels.gpu.checks import check
from danlu.kernels.gpu.launch import early, on, power_of_two, wait_turn

BLOCK = 1024  # not tuned


def swiglu_reference(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """[..., 2F] -> [..., F]: silu(gate) * up."""
    width = gate_up.shape[-1] // 2
    check("gate_up", gate_up, (*gate_up.shape[:-1], 2 * width))
    out = torch.empty(*gate_up.shape[:-1], width, dtype=gate_up.dtype, device=gate_up.device)
    if out.numel():
        block = min(BLOCK, power_of_two(width))
        with on(gate_up):
            _swiglu[out.numel() // width, triton.cdiv(width, block)](gate_up, out, width, BLOCK=block, **early(gate_up))
    return out


@triton.jit
def _swiglu(gate_up, out, width, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    wait_turn(EARLY)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, gate / (1.0 + tl.exp(-gate)) * up, mask=inside)
