"""int8 kernels: the worked example of the docstring, and every route against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.kernels.int8 import (
    PACKED_ROWS,
    dequantize_rows,
    int8_embedding,
    int8_linear,
    int8_linear_reference,
    quantize_rows,
)


def test_worked_example() -> None:
    weight = torch.tensor([[0.5, -1.27], [2.54, 0.0]])
    q, scale = quantize_rows(weight)
    assert q.tolist() == [[50, -127], [127, 0]]
    torch.testing.assert_close(scale, torch.tensor([0.01, 0.02]))
    y = int8_linear(torch.tensor([[1.0, 2.0]]), q, scale)
    torch.testing.assert_close(y, torch.tensor([[-2.04, 2.54]]))


def test_a_row_of_zeros_stays_zero() -> None:
    q, scale = quantize_rows(torch.zeros(2, 4))
    assert q.eq(0).all() and torch.isfinite(scale).all()
    assert dequantize_rows(q, scale).eq(0).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31 - 1), st.floats(1e-6, 1e4))
def test_error_of_a_weight_is_at_most_half_a_step(n: int, k: int, seed: int, size: float) -> None:
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * size
    q, scale = quantize_rows(weight)
    error = (dequantize_rows(q, scale) - weight).abs()
    assert (error <= 0.5001 * scale[:, None]).all()
    assert q.min() >= -127


@pytest.mark.parametrize("rows", [1, 2, 7, PACKED_ROWS, PACKED_ROWS + 1, 70])
@pytest.mark.parametrize(("n", "k"), [(33, 64), (128, 96), (7, 30), (5, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_routes_equal_the_reference(rows: int, n: int, k: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(rows * 1000 + n)
    q, scale = quantize_rows(torch.randn(n, k, generator=generator))
    x = torch.randn(rows, k, generator=generator)
    b = torch.randn(n, generator=generator) if bias else None
    got, want = int8_linear(x, q, scale, b), int8_linear_reference(x, q, scale, b)
    # The packed route rounds x and y to bfloat16 (8 bits of mantissa); the widened one does not.
    packed = rows <= PACKED_ROWS and k % 32 == 0
    bound = 1e-2 if packed else 1e-5
    assert got.dtype == torch.float32 and got.shape == want.shape
    assert (got - want).abs().max() <= bound * want.abs().max()


def test_leading_dimensions_and_dtype_are_kept() -> None:
    q, scale = quantize_rows(torch.randn(6, 32))
    x = torch.randn(2, 3, 32)
    assert int8_linear(x, q, scale).shape == (2, 3, 6)
    assert int8_linear(x.bfloat16(), q, scale).dtype == torch.bfloat16


def test_gradients_flow_to_the_input() -> None:
    """A frozen int8 base under an adapter: x has a gradient, the bytes have none."""
    q, scale = quantize_rows(torch.randn(6, 32))
    x = torch.randn(2, 32, requires_grad=True)
    int8_linear(x, q, scale).sum().backward()
    torch.testing.assert_close(x.grad, dequantize_rows(q, scale).sum(0).expand(2, 32), rtol=1e-4, atol=1e-4)


def test_embedding_widens_only_rows_asked_for() -> None:
    table = torch.randn(10, 8)
    q, scale = quantize_rows(table)
    ids = torch.tensor([[3, 9], [0, 3]])
    torch.testing.assert_close(int8_embedding(ids, q, scale), dequantize_rows(q, scale)[ids])
    assert int8_embedding(ids, q, scale, torch.bfloat16).dtype == torch.bfloat16
