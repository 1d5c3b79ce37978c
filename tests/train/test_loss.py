"""Chunked cross-entropy is cross-entropy, gradients included."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.train.loss import IGNORE, cross_entropy


def case(n: int, d: int, v: int, masked: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n * 1000 + v)
    hidden = torch.randn(n, d, generator=generator)
    weight = torch.randn(v, d, generator=generator) * 0.3
    targets = torch.randint(0, v, (n,), generator=generator)
    targets[torch.rand(n, generator=generator) < masked] = IGNORE
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def test_worked_example() -> None:
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.zeros(2, 1, requires_grad=True)
    loss, count = cross_entropy(hidden, weight, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2)) and count == 1
    assert hidden.grad is not None and hidden.grad.tolist() == [[0.0]]
    assert weight.grad is not None and weight.grad.tolist() == [[-0.5], [0.5]]


@pytest.mark.parametrize(("n", "d", "v", "chunk"), [(1, 4, 7, 1), (50, 8, 33, 16), (64, 16, 300, 64), (65, 16, 300, 9)])
def test_equals_torch(n: int, d: int, v: int, chunk: int) -> None:
    hidden, weight, targets = case(n, d, v, masked=0.0 if n == 1 else 0.3)
    loss, count = cross_entropy(hidden, weight, targets, chunk=chunk)
    (loss * 0.125).backward()
    ours = (hidden.grad, weight.grad)
    hidden.grad = weight.grad = None
    expected = F.cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORE, reduction="sum")
    (expected * 0.125).backward()
    torch.testing.assert_close(loss, expected)
    assert count == (targets != IGNORE).sum().item()
    for mine, theirs in zip(ours, (hidden.grad, weight.grad), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_batch_shape_and_tied_head() -> None:
    """[B, T, D] as a model gives it, with the head also used as the embedding: both gradients add up."""
    weight = torch.nn.Parameter(torch.randn(11, 6, generator=torch.Generator().manual_seed(0)))
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    targets = torch.tensor([[2, 3, IGNORE], [5, 6, 7]])
    grads = []
    for chunked in (True, False):
        weight.grad = None
        hidden = torch.tanh(weight[ids])
        if chunked:
            loss = cross_entropy(hidden, weight, targets, chunk=2)[0]
        else:
            loss = F.cross_entropy((hidden @ weight.T).view(-1, 11), targets.view(-1), reduction="sum")
        loss.backward()
        assert weight.grad is not None
        grads.append(weight.grad.clone())
    torch.testing.assert_close(*grads)


def test_all_masked_is_zero_not_nan() -> None:
    hidden, weight, targets = case(10, 4, 9, masked=1.1)
    loss, count = cross_entropy(hidden, weight, targets)
    loss.backward()
    assert loss.item() == 0 and count == 0
    assert hidden.grad is not None and not hidden.grad.any()
    assert weight.grad is not None and not weight.grad.any()


def test_masked_overflow_does_not_leak() -> None:
    """A masked row whose logits are infinite must not poison the rest."""
    hidden, weight, targets = case(6, 4, 9, masked=0.0)
    with torch.no_grad():
        hidden[2] = float("inf")
    targets[2] = IGNORE
    loss, _ = cross_entropy(hidden, weight, targets)
    loss.backward()
    assert hidden.grad is not None and torch.isfinite(hidden.grad).all()
    assert torch.isfinite(loss)


def test_no_grad_makes_no_gradient() -> None:
    hidden, weight, targets = case(10, 4, 9)
    with torch.no_grad():
        loss, _ = cross_entropy(hidden, weight, targets)
    assert not loss.requires_grad


def test_bfloat16_autocast_is_close() -> None:
    hidden, weight, targets = case(64, 16, 100)
    exact, _ = cross_entropy(hidden, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = cross_entropy(hidden, weight, targets)
    rough.backward()
    assert rough.dtype == torch.float32 and hidden.grad is not None and hidden.grad.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=1e-2)
