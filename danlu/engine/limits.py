"""What the machine could do at best: the physical limit beside a speed.

    decode     bytes read for one token    every weight once, and keys and values of the context so far
    prefill    FLOP for a prompt           2 a weight and token, 4 * head_dim a head and visible pair, the head once

    tokens/s of one stream <= bandwidth / bytes          prompts/s <= matrix peak / FLOP

The bandwidth is the best that was measured on this machine, by torch or by a team of the engine's own threads. The
matrix peak belongs to a kind of arithmetic: a model in float32 or bfloat16 is held against the products of its own
dtype (float32's are the better of torch's and of multiply-adds on registers: torch's are slow on some processors); a
quantised one may be multiplied in bytes, so it is held against the fastest products of any kind. Where torch has no
fast product of bytes (a CPU without VNNI) that is float32's, and a share above 1 says what the bytes gained.

Layers with a sliding window read and multiply less than is counted here; their limits are then a little higher.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from danlu.core.device import probe
from danlu.kernels.decoder import Decoder, KernelError, Shape
from danlu.model.quantized import is_quantized

if TYPE_CHECKING:
    from danlu.engine.engine import Engine
    from danlu.model.transformer import Transformer


@dataclass(frozen=True)
class Machine:
    """Rates measured now: bytes/s read from memory, and operations/s of matrix products by dtype."""

    bandwidth: float
    products: dict[str, float]

    def peak(self, dtype: str) -> float:
        """The products of a dtype. For one that is not multiplied as it is (int8, int4): the fastest there are."""
        return self.products[dtype] if dtype in ("float32", "bfloat16") else max(self.products.values())


def measure_machine() -> Machine:
    """A second or two."""
    device = probe(refresh=True)
    products = dict(device.matmul_flops)
    if device.kind != "cpu":
        return Machine(device.bandwidth, products)
    products |= {"float32": max(products["float32"], _of_a_team(Decoder.multiply_rate)), "int8": _int8_rate()}
    return Machine(max(device.bandwidth, read_rate()), products)


def read_rate() -> float:
    """Bytes/s that a team of the compiled kernels reads from memory now (torch, where there are none): 0.3 seconds."""
    return _of_a_team(Decoder.read_rate) or probe().bandwidth


def prefill_flops(model: Transformer, tokens: int) -> int:
    """FLOP of reading a prompt of `tokens` alone, causal, and sampling once.

    Worked example: 2 tokens, 100 weights in the blocks, a head of 50, one layer with one head of width 4:
    2 * 100 * 2 + 2 * 50 + 3 visible pairs * 4 * 4 = 548.
    """
    config = model.config
    head = config.vocab_size * config.hidden_size
    pairs = tokens * (tokens + 1) // 2
    attention = 4 * config.head_dim * config.n_heads * config.n_layers * pairs
    return 2 * (model.n_matmul_params - head) * tokens + 2 * head + attention


def arithmetic_of(engine: Engine) -> str:
    """The dtype whose products an engine is held against (`Machine.peak`)."""
    return "int8" if is_quantized(engine.model) else str(engine.dtype).removeprefix("torch.")


def weight_bytes(model: Transformer) -> int:
    """Bytes of the tensors that every token reads: all, but not tables of which it reads one row.

    Of shapes and dtypes alone: the numbers may be in the compiled library, and the model without memory.
    """
    looked_up = {"position_embedding"} | ({"embedding"} if model.lm_head is not None else set())
    tensors = (tensor for name, tensor in model.state_dict().items() if name.split(".")[0] not in looked_up)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _of_a_team(rate: Callable[[Decoder], float]) -> float:
    """The best of three such rates of a team of the compiled kernels; 0 where there are none."""
    smallest = Shape(
        layers=1, hidden=32, heads=1, kv_heads=1, head_dim=32, inner=32, vocab=32, max_position=16, norm="rms",
        mlp="swiglu", eps=1e-5, scale=1.0, threads=torch.get_num_threads(), max_tokens=1,
    )  # fmt: skip
    try:
        team = Decoder(smallest)
        return max(rate(team) for _ in range(3))
    except KernelError:
        return 0.0


def _int8_rate(n: int = 1024, seconds: float = 0.5) -> float:
    """Best rate of an int8 matrix product on the CPU, operations/s; 0 where torch has none."""
    a, b = (torch.randint(-127, 128, (n, n), dtype=torch.int8) for _ in range(2))
    best, deadline = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        begin = time.perf_counter()
        try:
            torch._int_mm(a, b)
        except RuntimeError:
            return 0.0
        best = max(best, 2 * n**3 / (time.perf_counter() - begin))
    return best
