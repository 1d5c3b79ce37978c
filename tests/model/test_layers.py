"""Norms and MLPs against numbers done by hand; hand-written gradients against autograd of the plain formula."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from danlu.model.config import ModelConfig
from danlu.model.layers import GeluMLP, RMSNorm, RMSNormFunction, SwiGLU, SwiGLUFunction


def test_rms_norm_by_hand() -> None:
    norm = RMSNorm(2, eps=0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 10.0]))
    x = torch.tensor([[3.0, 4.0], [1.0, 7.0]])  # mean squares 12.5 and 25
    by_hand = torch.tensor([[3 / 12.5**0.5, 40 / 12.5**0.5], [0.2, 14.0]])
    torch.testing.assert_close(norm(x), by_hand)  # the training path
    with torch.no_grad():
        torch.testing.assert_close(norm(x), by_hand)  # the serving path


def test_rms_norm_gradient_is_autograds() -> None:
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: RMSNormFunction.apply(x, w, 1e-3), (x, weight))
    strided = torch.randn(2, 3, 4, 8, dtype=torch.float64).transpose(1, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: RMSNormFunction.apply(x, w, 1e-3), (strided, weight))


def test_rms_norm_in_bfloat16_rounds_once() -> None:
    x = torch.randn(4, 64).bfloat16().requires_grad_()
    weight = torch.randn(64, requires_grad=True)
    y = RMSNormFunction.apply(x, weight, 1e-6)
    exact = F.rms_norm(x.double(), (64,), weight.double(), 1e-6)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, exact.to(torch.bfloat16)) or (y.double() - exact).abs().max() < 2**-8 * exact.abs().max()
    gradient = torch.randn(4, 64).bfloat16()
    (d_x, d_weight) = torch.autograd.grad(y, (x, weight), gradient)
    (e_x, e_weight) = torch.autograd.grad(exact, (x, weight), gradient.double())
    torch.testing.assert_close(d_x, e_x, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(d_weight, e_weight, atol=1e-3, rtol=1e-3)


def test_swiglu_gradient_is_autograds() -> None:
    x = torch.randn(3, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SwiGLUFunction.apply, (x,))
    gate, up = x.chunk(2, -1)
    torch.testing.assert_close(SwiGLUFunction.apply(x), F.silu(gate) * up)


def test_swiglu_by_hand() -> None:
    mlp = SwiGLU(ModelConfig(vocab_size=1, hidden_size=1, n_layers=1, n_heads=1, head_dim=2, intermediate_size=1))
    with torch.no_grad():
        mlp.gate_up.weight.copy_(torch.tensor([[2.0], [3.0]]))  # gate row first
        mlp.down.weight.fill_(5.0)
    silu = 2.0 / (1 + torch.tensor(-2.0).exp())
    torch.testing.assert_close(mlp(torch.ones(1, 1)), (5 * silu * 3).view(1, 1))


def test_gelu_forms_differ_as_they_should() -> None:
    shape = {"vocab_size": 1, "hidden_size": 1, "n_layers": 1, "n_heads": 1, "head_dim": 2, "intermediate_size": 1}
    outputs = {}
    for tanh in (True, False):
        mlp = GeluMLP(ModelConfig(**shape, mlp="gelu", gelu_tanh=tanh))
        with torch.no_grad():
            mlp.up.weight.fill_(1.0)
            mlp.down.weight.fill_(1.0)
        outputs[tanh] = mlp(torch.ones(1, 1)).item()
    assert abs(outputs[False] - 0.8413447) < 1e-6  # the share of a normal distribution below one deviation
    assert 1e-5 < abs(outputs[True] - outputs[False]) < 1e-3
