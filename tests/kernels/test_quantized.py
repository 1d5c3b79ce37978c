"""Products with weights on a grid: every route against the weights written out."""

from __future__ import annotations

import pytest
import torch

from danlu.kernels.grid import Grid, fit, pack
from danlu.kernels.quantized import PACKED_ROWS, quantized_embedding, quantized_linear


def random_grid(n: int, k: int, bits: int = 8, group: int | None = None, symmetric: bool = True, seed: int = 0) -> Grid:
    return fit(torch.randn(n, k, generator=torch.Generator().manual_seed(seed)), bits, group, symmetric)


def test_worked_example() -> None:
    found = fit(torch.tensor([[0.5, -1.27], [2.54, 0.0]]), 8, None)
    y = quantized_linear(torch.tensor([[1.0, 2.0]]), found.values, found.scale)
    torch.testing.assert_close(y, torch.tensor([[-2.04, 2.54]]))


@pytest.mark.parametrize("rows", [1, 2, 7, PACKED_ROWS, PACKED_ROWS + 1, 70])
@pytest.mark.parametrize(("n", "k"), [(33, 64), (128, 96), (7, 30), (5, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_rows_of_bytes(rows: int, n: int, k: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(rows * 1000 + n)
    found = random_grid(n, k)
    x = torch.randn(rows, k, generator=generator)
    b = torch.randn(n, generator=generator) if bias else None
    got = quantized_linear(x, found.values, found.scale, bias=b)
    want = torch.nn.functional.linear(x, found.widen(), b)
    # The packed route rounds x and y to bfloat16 (8 bits of mantissa); the other does not.
    packed = rows <= PACKED_ROWS and k % 32 == 0
    bound = 1e-2 if packed else 1e-5
    assert got.dtype == torch.float32 and got.shape == want.shape
    assert (got - want).abs().max() <= bound * want.abs().max()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 96), (4, None), (8, 32)])
def test_groups_and_zero_points(bits: int, group: int | None, symmetric: bool) -> None:
    found, x = random_grid(48, 96, bits, group, symmetric), torch.randn(5, 96)
    weight = pack(found.values) if bits == 4 else found.values
    got = quantized_linear(x, weight, found.scale, found.zero, torch.ones(48))
    torch.testing.assert_close(got, x @ found.widen().T + 1)
    ids = torch.tensor([[3, 47], [0, 3]])
    assert torch.equal(quantized_embedding(ids, weight, found.scale, found.zero), found.widen()[ids])


def test_leading_dimensions_and_dtype_are_kept() -> None:
    found = random_grid(6, 32)
    x = torch.randn(2, 3, 32)
    assert quantized_linear(x, found.values, found.scale).shape == (2, 3, 6)
    assert quantized_linear(x.bfloat16(), found.values, found.scale).dtype == torch.bfloat16


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients_flow_to_the_input(symmetric: bool) -> None:
    """A frozen base under an adapter: x has a gradient, the whole numbers have none."""
    found = random_grid(6, 32, symmetric=symmetric)
    x = torch.randn(2, 32, requires_grad=True)
    quantized_linear(x, found.values, found.scale, found.zero).sum().backward()
    torch.testing.assert_close(x.grad, found.widen().sum(0).expand(2, 32), rtol=1e-4, atol=1e-4)
