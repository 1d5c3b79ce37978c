"""The worked examples of the criteria, and what each is better at than the one before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from danlu.compress.prune.criteria import CRITERIA, magnitude, sparsegpt
from danlu.compress.prune.pattern import Pattern
from danlu.compress.walk.layers import Moments


def seen(hessian: Tensor) -> Moments:
    return Moments(hessian, hessian.diagonal(), hessian.diagonal(), 1)


def pruned(name: str, weight: Tensor, inputs: Moments, pattern: Pattern) -> Tensor:
    row = CRITERIA[name]
    return row.prune(weight, None if row.look is None else row.look(inputs)[0], pattern)


def test_wanda_looks_at_the_inputs() -> None:
    weight, inputs = torch.tensor([[3.0, 2.0]]), seen(torch.diag(torch.tensor([1.0, 16.0])))
    assert magnitude(weight, None, Pattern(0.5)).tolist() == [[3, 0]]
    assert pruned("wanda", weight, inputs, Pattern(0.5)).tolist() == [[0, 2]]


def test_sparsegpt_worked_example() -> None:
    weight, hessian = torch.tensor([[0.4, 0.7]]), torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)  # without damping
    found = sparsegpt(weight, (factor, torch.tensor([False, False])), Pattern(0.5))
    assert found.tolist() == [[0.0, pytest.approx(1.06, abs=1e-5)]]
    error = weight - found
    assert float(error @ hessian @ error.T) == pytest.approx(0.0304, abs=1e-5)


@pytest.mark.parametrize("pattern", [Pattern(0.5), Pattern.parse(0, "2:4"), Pattern.parse(0, "4:8")], ids=str)
def test_each_loses_less_than_the_one_before(pattern: Pattern) -> None:
    torch.manual_seed(0)
    mix = torch.randn(256, 256) * torch.linspace(0.1, 3, 256)[:, None]
    scales = torch.linspace(0.2, 2, 256)[torch.randperm(256)]
    inputs = Moments.of([torch.randn(1024, 256) @ mix * scales])
    weight = torch.randn(48, 256)
    lost = []
    for name in CRITERIA:
        found = pruned(name, weight, inputs, pattern)
        assert int((found == 0).sum()) == found.numel() // 2
        if pattern.of:
            groups = found.view(-1, pattern.of)
            assert ((groups != 0).sum(dim=1) == pattern.kept).all()
        error = weight - found
        lost.append(float(((error @ inputs.hessian) * error).sum()))
    assert lost[1] < 0.9 * lost[0] and lost[2] < 0.7 * lost[1]


def test_columns_without_input_go_first() -> None:
    inputs = torch.randn(64, 8)
    inputs[:, [2, 3, 5, 6]] = 0
    weight = torch.randn(4, 8) + 10
    for name in ("wanda", "sparsegpt"):
        found = pruned(name, weight, Moments.of([inputs]), Pattern(0.5))
        assert (found[:, [2, 3, 5, 6]] == 0).all() and (found[:, [0, 1, 4, 7]] != 0).all()


def test_no_inputs_at_all_give_no_nan() -> None:
    found = pruned("sparsegpt", torch.randn(4, 8), seen(torch.zeros(8, 8)), Pattern(0.5))
    assert torch.isfinite(found).all() and int((found == 0).sum()) == 16
