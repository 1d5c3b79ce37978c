"""Whole numbers times a scale: what they mean, how near they come, and the layout on disk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.kernels.grid import fit, pack, unpack

GROUP = 32


def test_worked_example() -> None:
    weight = torch.zeros(1, GROUP)
    weight[0, :4] = torch.tensor([0.8, -0.4, 0.1, 0.3])
    found = fit(weight, 4, GROUP)
    assert found.values[0, :5].tolist() == [-8, 4, -1, -3, 0] and found.scale.item() == pytest.approx(-0.1, rel=1e-3)
    torch.testing.assert_close(found.widen(), weight, atol=1e-3, rtol=0)


def test_worked_example_of_eight_bits() -> None:
    found = fit(torch.tensor([[0.5, -1.27], [2.54, 0.0]]), 8, None)
    assert found.values.tolist() == [[50, -127], [127, 0]] and found.zero is None
    torch.testing.assert_close(found.scale, torch.tensor([[0.01], [0.02]]))


def test_zero_points_by_hand() -> None:
    """From 1 to 2.5 in steps of 0.1: the grid starts at 0, so 16 levels of 2.5 / 15; at -1 it has to reach down."""
    found = fit(torch.linspace(-0.7, 0.8, 16).repeat(2)[None], 4, GROUP, symmetric=False)
    assert found.zero is not None and found.scale.item() == pytest.approx(0.1, rel=1e-3)
    assert found.zero.item() == -1 and found.values[0, :16].tolist() == list(range(-8, 8))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [None, 32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_errors_are_small_and_zero_points_help_lopsided_weights(bits: int, group: int | None, symmetric: bool) -> None:
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0)) + 0.5
    found = fit(weight, bits, group, symmetric)
    lost = (found.widen() - weight).norm() / weight.norm()
    assert lost < (0.012 if bits == 8 else 0.12)
    assert found.scale.shape == (16, 256 // (group or 256))
    other = fit(weight, bits, group, not symmetric)
    better = found if not symmetric else other
    worse = other if not symmetric else found
    assert (better.widen() - weight).norm() < (worse.widen() - weight).norm()


def test_error_is_below_plain_rounding() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    found = fit(weight, 4, GROUP)
    ours = (found.widen() - weight).norm()
    groups = weight.view(64, -1, GROUP)
    plain_scale = groups.abs().amax(2, keepdim=True) / 7
    plain = (torch.round(groups / plain_scale) * plain_scale - groups).norm()
    assert ours < 0.93 * plain
    assert found.values.min() >= -8 and found.values.max() <= 7
    assert torch.equal(found.scale, found.scale.half().float())


def test_importance_moves_the_error_to_columns_that_do_not_count() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    counts = torch.ones(64)
    counts[::4] = 100.0
    plain, weighed = (
        ((fit(weight, 4, 64, importance=i).widen() - weight).square() * counts).sum() for i in (None, counts)
    )
    assert weighed < 0.95 * plain


def test_zeros_and_huge_values() -> None:
    weight = torch.zeros(2, 64)
    weight[1, 40] = 60000.0
    for symmetric in (True, False):
        found = fit(weight, 4, GROUP, symmetric)
        assert torch.isfinite(found.scale).all() and (found.scale != 0).all()
        assert torch.equal(found.widen()[0], weight[0])
        assert found.widen()[1, 40].item() == pytest.approx(60000, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31 - 1), st.floats(1e-6, 1e4))
def test_error_of_a_byte_is_at_most_half_a_step(n: int, k: int, seed: int, size: float) -> None:
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * size
    found = fit(weight, 8, None)
    assert ((found.widen() - weight).abs() <= 0.5001 * found.scale).all()
    assert found.values.min() >= -127


def test_packing_worked_example() -> None:
    values = torch.tensor([[-8, -7, 0, 7, -8, -8, -8, -8]], dtype=torch.int8)
    assert pack(values).item() == 0xF810


@given(st.lists(st.integers(-8, 7), min_size=8, max_size=64).filter(lambda v: len(v) % 8 == 0))
def test_nibbles_come_back(numbers: list[int]) -> None:
    values = torch.tensor([numbers, numbers[::-1]], dtype=torch.int8)
    assert torch.equal(unpack(pack(values)), values)
    memory = torch.empty_like(values)
    assert torch.equal(unpack(pack(values), memory), values) and torch.equal(memory, values)
