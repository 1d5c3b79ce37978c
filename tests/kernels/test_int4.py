"""Four bits: what the numbers mean, how near they come, and the layout on disk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from danlu.kernels.int4 import (
    GROUP,
    dequantize_groups,
    int4_embedding,
    int4_linear,
    pack_nibbles,
    quantize_groups,
    unpack_nibbles,
)


def test_worked_example() -> None:
    weight = torch.zeros(1, GROUP)
    weight[0, :4] = torch.tensor([0.8, -0.4, 0.1, 0.3])
    values, scale = quantize_groups(weight)
    assert values[0, :5].tolist() == [-8, 4, -1, -3, 0] and scale.item() == pytest.approx(-0.1, rel=1e-3)
    torch.testing.assert_close(dequantize_groups(values, scale), weight, atol=1e-3, rtol=0)


def test_packing_worked_example() -> None:
    values = torch.tensor([[-8, -7, 0, 7, -8, -8, -8, -8]], dtype=torch.int8)
    assert pack_nibbles(values).item() == 0xF810


@given(st.lists(st.integers(-8, 7), min_size=8, max_size=64).filter(lambda v: len(v) % 8 == 0))
def test_nibbles_come_back(numbers: list[int]) -> None:
    values = torch.tensor([numbers, numbers[::-1]], dtype=torch.int8)
    assert torch.equal(unpack_nibbles(pack_nibbles(values)), values)
    memory = torch.empty_like(values)
    assert torch.equal(unpack_nibbles(pack_nibbles(values), memory), values) and torch.equal(memory, values)


def test_error_is_below_plain_rounding() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    values, scale = quantize_groups(weight)
    ours = (dequantize_groups(values, scale) - weight).norm()
    groups = weight.view(64, -1, GROUP)
    plain_scale = groups.abs().amax(2, keepdim=True) / 7
    plain = (torch.round(groups / plain_scale) * plain_scale - groups).norm()
    assert ours < 0.93 * plain
    assert values.min() >= -8 and values.max() <= 7
    assert torch.equal(scale, scale.half().float())


def test_zeros_and_huge_values() -> None:
    weight = torch.zeros(2, 64)
    weight[1, 40] = 60000.0
    values, scale = quantize_groups(weight)
    assert torch.isfinite(scale).all() and (scale != 0).all()
    assert torch.equal(dequantize_groups(values, scale)[0], weight[0])
    assert dequantize_groups(values, scale)[1, 40].item() == pytest.approx(60000, rel=0.01)


def test_linear_and_embedding_are_the_definition() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(48, 96, generator=generator), torch.randn(5, 96, generator=generator)
    values, scale = quantize_groups(weight)
    packed, plain = pack_nibbles(values), dequantize_groups(values, scale)
    torch.testing.assert_close(int4_linear(x, packed, scale, torch.ones(48)), x @ plain.T + 1)
    ids = torch.tensor([[3, 47], [0, 3]])
    assert torch.equal(int4_embedding(ids, packed, scale), plain[ids])
