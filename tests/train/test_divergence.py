"""The divergence from a teacher, and its gradient, against autograd over whole logits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from danlu.train.divergence import divergence


def test_the_example_of_the_docstring() -> None:
    hidden = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    loss = divergence(hidden, torch.eye(2), torch.zeros(1, 2), torch.eye(2))
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert hidden.grad is not None and hidden.grad[0].tolist() == pytest.approx([-0.25, 0.25])


def test_gradients_are_those_of_whole_logits() -> None:
    torch.manual_seed(0)
    hidden, theirs = torch.randn(200, 8), torch.randn(200, 12)
    weight, their_weight = torch.randn(30, 8), torch.randn(30, 12)
    grads = []
    for chunked in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if chunked:
            loss = divergence(h, w, theirs, their_weight)
        else:
            target = (theirs @ their_weight.T).log_softmax(-1)
            loss = F.kl_div((h @ w.T).log_softmax(-1), target, reduction="sum", log_target=True)
        (3 * loss).backward()
        grads.append((loss.detach(), h.grad, w.grad))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    same = divergence(hidden, weight, hidden, weight)
    assert abs(same.item()) < 1e-3
