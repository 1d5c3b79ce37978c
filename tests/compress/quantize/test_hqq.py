"""HQQ: the worked example, and never worse than what it begins with."""

from __future__ import annotations

import pytest
import torch

from danlu.compress.quantize.hqq import P, hqq
from danlu.kernels import grid
from danlu.model.quantized import Scheme


def test_the_worked_example() -> None:
    weight = torch.tensor([[11.5, *[1.0] * 14, *[2.0] * 14, 0, 0, 0]])
    plain, found = grid.fit(weight, 4, 32, symmetric=True), hqq(weight, Scheme(4, 32))
    assert float(plain.scale) == pytest.approx(-1.22, abs=0.01) and float(found.scale) == pytest.approx(-1.01, abs=0.01)
    assert float(plain.widen()[0, 0]) == pytest.approx(9.77, abs=0.01)
    assert float(found.widen()[0, 0]) == pytest.approx(8.11, abs=0.01)
    costs = [float((weight - one.widen()).abs().pow(P).sum()) for one in (plain, found)]
    assert costs == pytest.approx([14.3, 4.2], abs=0.05)


@pytest.mark.parametrize("symmetric", [True, False])
def test_no_group_is_worse_than_by_least_squares(symmetric: bool) -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) ** 3
    scheme = Scheme(4, 32, symmetric)
    plain, found = grid.fit(weight, 4, 32, symmetric), hqq(weight, scheme)
    costs = [(weight - one.widen()).abs().pow(P).view(64, 4, 32).sum(2) for one in (plain, found)]
    assert (costs[1] <= costs[0] * 1.0001).all() and costs[1].sum() < 0.99 * costs[0].sum()
