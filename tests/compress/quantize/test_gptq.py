"""GPTQ: by hand, against rounding to nearest, and on Hessians that are no good."""

from __future__ import annotations

import pytest
import torch

from danlu.compress.quantize.gptq import for_new_inputs, gptq, inverse_factor
from danlu.compress.quantize.smoothing import output_error
from danlu.kernels.grid import fit
from danlu.model.quantized import Scheme


def inputs(n: int, width: int, seed: int = 0) -> torch.Tensor:
    """[n, width], strongly correlated: eight directions and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(n, 8, generator=generator) @ torch.randn(8, width, generator=generator)
    return few + 0.3 * torch.randn(n, width, generator=generator)


def test_the_factor_by_hand() -> None:
    """H = [[2, 1], [1, 2]]: H^-1 = [[2, -1], [-1, 2]] / 3, and with U^T U = H^-1 the first row of U is that of H^-1
    over the root of its corner."""
    upper, raised = inverse_factor(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), damp=0.0)
    root = (2 / 3) ** 0.5
    wanted = torch.tensor([[root, -1 / 3 / root], [0.0, (2 / 3 - (1 / 3 / root) ** 2) ** 0.5]])
    torch.testing.assert_close(upper, wanted)
    assert raised == 0


def test_the_worked_example() -> None:
    """Two inputs that come together. A third weight of -8 sets the scale to 1 and has an input of its own."""
    hessian = torch.eye(32)
    hessian[0, 1] = hessian[1, 0] = 0.9
    weight = torch.zeros(1, 32)
    weight[0, :3] = torch.tensor([0.4, 0.4, -8.0])
    assert fit(weight, 4, 32).values[0, :3].tolist() == [0, 0, -8]
    found, _ = gptq(weight, hessian, Scheme(4, 32), damp=1e-6)
    assert found.scale.item() == 1.0 and found.values[0, :3].tolist() == [0, 1, -8]
    nearest = output_error(weight - fit(weight, 4, 32).widen(), hessian)
    assert nearest == pytest.approx(0.608, abs=1e-3)
    assert output_error(weight - found.widen(), hessian) == pytest.approx(0.088, abs=1e-3)


@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(4, 64, False), Scheme(4, None), Scheme(8)], ids=str)
def test_outputs_stay_nearer_than_with_rounding_to_nearest(scheme: Scheme) -> None:
    weight = torch.randn(48, 192, generator=torch.Generator().manual_seed(1))
    x = inputs(600, 192)
    hessian = x.t() @ x
    found, raised = gptq(weight, hessian, scheme)
    plain = fit(weight, scheme.bits, scheme.group, scheme.symmetric)
    assert raised == 0
    assert output_error(weight - found.widen(), hessian) < 0.5 * output_error(weight - plain.widen(), hessian)
    low, high = (-8, 7) if scheme.bits == 4 else (-127, 127)
    assert found.values.min() >= low and found.values.max() <= high
    without_order, _ = gptq(weight, hessian, scheme, activation_order=False)
    assert output_error(weight - without_order.widen(), hessian) < output_error(weight - plain.widen(), hessian)


@pytest.mark.parametrize(
    "hessian",
    [torch.zeros(64, 64), torch.ones(64, 64), torch.full((64, 64), float("nan")), torch.diag(torch.eye(64)[0])],
    ids=["nothing seen", "one direction", "nan", "one input alone"],
)
def test_a_hessian_that_is_no_good_never_gives_nan(hessian: torch.Tensor) -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    found, _ = gptq(weight, hessian, Scheme(4, 32))
    lost = (found.widen() - weight).norm() / weight.norm()
    assert torch.isfinite(found.widen()).all() and lost < 0.5


def test_an_indefinite_hessian_is_damped_and_says_so() -> None:
    hessian = torch.eye(64)
    hessian[0, 1] = hessian[1, 0] = 1.5
    upper, raised = inverse_factor(hessian)
    assert raised == 2 and torch.isfinite(upper).all()


def test_a_matrix_for_new_inputs_makes_the_old_outputs() -> None:
    """Inputs that arrive turned and a little wrong: the weight that undoes it is found as far as one trusts."""
    generator = torch.Generator().manual_seed(0)
    weight, old = torch.randn(16, 32, generator=generator), torch.randn(4000, 32, generator=generator)
    new = old @ (torch.eye(32) + 0.1 * torch.randn(32, 32, generator=generator))
    hessian, cross = new.t() @ new, old.t() @ new
    errors = [
        float((old @ weight.t() - new @ for_new_inputs(weight, hessian, cross, trust).t()).norm())
        for trust in (0.0, 0.5, 1.0)
    ]
    assert errors[0] > 1.8 * errors[1] > 3.2 * errors[2]
    assert torch.equal(for_new_inputs(weight, torch.zeros(32, 32), cross), weight)
