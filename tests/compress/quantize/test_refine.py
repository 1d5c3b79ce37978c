"""Looking again at scales and numbers: by hand, against the best there is, and on Hessians that are no good."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from danlu.compress.quantize.gptq import gptq
from danlu.compress.quantize.refine import best_scales, descend, refine
from danlu.compress.quantize.smoothing import output_error
from danlu.kernels.grid import Grid
from danlu.model.quantized import Scheme
from tests.compress.quantize.test_gptq import inputs

PAIR = torch.tensor([[1.0, 0.9], [0.9, 1.0]])


def test_the_worked_example() -> None:
    weight, row = torch.tensor([[0.4, 0.4]]), Scheme(4, None)
    start = Grid(torch.zeros(1, 2, dtype=torch.int8), torch.ones(1, 1), None)
    moved = descend(weight, PAIR, start, row)
    assert moved.values.tolist() == [[1, 0]]
    assert output_error(weight - moved.widen(), PAIR) == pytest.approx(0.088, abs=1e-6)
    scaled = best_scales(weight, PAIR, moved, row)
    assert scaled.scale.item() == pytest.approx((0.76 + 0.01) / 1.01)  # held a hundredth by the old one
    assert output_error(weight - scaled.widen(), PAIR) == pytest.approx(0.0304, abs=1e-4)


def test_no_other_single_number_serves_better() -> None:
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(2))
    x = inputs(200, 64)
    hessian, scheme = x.t() @ x / 200 + 0.01 * torch.eye(64), Scheme(4, 32, False)
    found, _ = gptq(weight, hessian, scheme)
    for _ in range(20):
        found = descend(weight, hessian, found, scheme)
    error = weight - found.widen()
    best = ((error @ hessian) * error).sum(dim=1)
    for row, column, step in product(range(6), range(0, 64, 7), (-1, 1)):
        other = found.values.clone()
        other[row, column] += step
        if -8 <= other[row, column] <= 7:
            e = (weight - found._replace(values=other).widen())[row]
            assert e @ hessian @ e >= best[row] - 1e-4


@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(4, 64, False), Scheme(4, None), Scheme(8)], ids=str)
def test_outputs_come_nearer(scheme: Scheme) -> None:
    weight = torch.randn(48, 192, generator=torch.Generator().manual_seed(1))
    x = inputs(600, 192)
    hessian = x.t() @ x
    found, _ = gptq(weight, hessian, scheme)
    errors = [output_error(weight - found.widen(), hessian)]
    for rounds in (1, 2):
        better = refine(weight, hessian, found, scheme, rounds, damp=1e-3)
        errors.append(output_error(weight - better.widen(), hessian))
        low, high = (-8, 7) if scheme.bits == 4 else (-127, 127)
        assert better.values.min() >= low and better.values.max() <= high
        assert torch.equal(better.scale, better.scale.to(scheme.scale_dtype).float())
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.95 * errors[0]
    assert refine(weight, hessian, found, scheme, 0, damp=0.01) is found


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_hessian_that_says_nothing(value: float) -> None:
    weight, scheme = torch.randn(4, 32), Scheme(4, 32)
    hessian = torch.full((32, 32), value)
    found, _ = gptq(weight, hessian, scheme)
    assert refine(weight, hessian, found, scheme, 2, damp=0.01) is found


def test_columns_that_nothing_comes_through_are_rounded_as_they_are() -> None:
    weight, scheme = torch.randn(4, 64, generator=torch.Generator().manual_seed(3)), Scheme(4, 32)
    x = inputs(100, 64)
    x[:, 5] = 0
    hessian = x.t() @ x
    found, _ = gptq(weight, hessian, scheme)
    found = refine(weight, hessian, found, scheme, 2, damp=0.01)
    assert (weight[:, 5] - found.widen()[:, 5]).abs().max() <= found.scale[:, 0].abs().max() * 0.51
