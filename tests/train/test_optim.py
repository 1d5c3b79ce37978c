"""AdamW against torch, Muon against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from danlu.train.optim import (
    NEWTON_SCHULZ,
    Group,
    Optimizer,
    adamw_,
    clip_,
    make_optimizer,
    newton_schulz_flops,
    orthogonalise,
)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 8)
        self.qkv = nn.Linear(8, 16, bias=True)
        self.norm = nn.LayerNorm(16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.norm(self.qkv(self.embed(ids))).pow(3).sum()


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 16, 48), (2, 48, 16)])
def test_orthogonalise(shape: tuple[int, int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x[..., 0] *= 30  # one direction dominates, as in a real momentum
    u, values, vt = torch.linalg.svd(x, full_matrices=False)
    y = orthogonalise(x)
    assert y.shape == x.shape
    after = torch.diagonal(u.mT @ y @ vt.mT, dim1=-2, dim2=-1)  # S', in the order of S
    share = values / x.norm(dim=(-2, -1))[..., None]
    assert (after > torch.minimum(100 * share, torch.tensor(0.135))).all() and after.max() < 1.87
    cosine = (y * (u @ vt)).sum() / (y.norm() * (u @ vt).norm())
    assert cosine > 0.8


def test_each_polynomial_is_the_best_on_its_interval() -> None:
    """Chebyshev: an odd quintic is the nearest one to 1 when its error takes its extreme four times with both signs."""
    low, high = 0.001, 1.0
    for a, b, c in NEWTON_SCHULZ:
        s = torch.linspace(low, high, 200_001, dtype=torch.float64)
        error = a * s + b * s**3 + c * s**5 - 1
        extremes = torch.cat(
            [error[:1], error[1:-1][(error[1:-1] - error[:-2]) * (error[2:] - error[1:-1]) < 0], error[-1:]]
        )
        assert len(extremes) == 4 and torch.equal(extremes.sign(), torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64))
        torch.testing.assert_close(extremes.abs(), extremes.abs().max().expand(4), rtol=5e-3, atol=0)  # four decimals
        low, high = 1 + float(error.min()), 1 + float(error.max())
    assert low == pytest.approx(0.14, abs=0.005) and high == pytest.approx(1.86, abs=0.005)


def test_adamw_equals_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Toy(), Toy()
    theirs.load_state_dict(ours.state_dict())
    mine = make_optimizer(ours, name="adamw", learning_rate=1e-2, weight_decay=0.1)
    decayed = [p for p in theirs.parameters() if p.dim() >= 2]
    vectors = [p for p in theirs.parameters() if p.dim() < 2]
    reference = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=1e-2, betas=(0.9, 0.95)
    )
    for _ in range(5):
        for model, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            model(torch.tensor([1, 2, 3])).backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("step", [1, 7])
def test_adamw_definition_equals_the_fused_kernel(step: int) -> None:
    generator = torch.Generator().manual_seed(1)
    p, g, m = (torch.randn(5, 7, generator=generator) for _ in range(3))
    v = torch.rand(5, 7, generator=generator)
    results = []
    for fused in (True, False):
        arrays = [[x.clone()] for x in (p, g, m, v)]
        adamw_(*arrays, step, 1e-2, (0.9, 0.95), 1e-8, 0.1, fused=fused)
        results.append(arrays)
    for kernel, definition in zip(*results, strict=True):
        torch.testing.assert_close(kernel, definition)


def test_muon_groups_and_update_size() -> None:
    torch.manual_seed(0)
    model = Toy()
    optimizer = make_optimizer(model, learning_rate=0.02, weight_decay=0.0, splits=lambda n, p: (8, 4, 4))
    assert [(g.rule, g.names) for g in optimizer.groups] == [
        ("muon", ["qkv.weight"]),
        ("adamw", ["embed.weight"]),
        ("adamw", ["qkv.bias", "norm.weight", "norm.bias"]),
    ]
    assert optimizer.groups[2].weight_decay == 0.0
    before = model.qkv.weight.detach().clone()
    model(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9]])).backward()
    optimizer.step(0.5)
    update = (before - model.qkv.weight.detach()) / 0.01
    for piece in update.split((8, 4, 4)):  # each logical matrix on its own: RMS about 0.2 as AdamW's
        values = torch.linalg.svdvals(piece / (0.2 * math.sqrt(max(piece.shape))))
        assert values.min() > 0.13 and values.max() < 1.87
    assert optimizer.flops == newton_schulz_flops(8, 8) + 2 * newton_schulz_flops(4, 8)


def test_decay_shrinks_only_matrices() -> None:
    weight, gain = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4))
    optimizer = Optimizer([Group("muon", ["w"], [weight], 0.1, 0.5, [(4,)]), Group("adamw", ["g"], [gain], 0.1, 0.0)])
    weight.grad, gain.grad = torch.zeros(4, 4), torch.zeros(4)
    optimizer.step()
    assert weight.detach().flatten().tolist() == pytest.approx([0.95] * 16)
    assert gain.detach().tolist() == [1.0] * 4


def test_state_round_trip_gives_the_same_bits() -> None:
    def run(restart: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = Toy()
        optimizer = make_optimizer(model, learning_rate=0.02)
        for i in range(6):
            if restart and i == 3:
                saved = {k: v.clone() for k, v in optimizer.state_dict().items()}
                optimizer = make_optimizer(model, learning_rate=0.02)
                optimizer.load_state_dict(saved)
            optimizer.zero_grad()
            model(torch.tensor([i, i + 1])).backward()
            optimizer.step()
        return [p.detach() for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(run(False), run(True), strict=True))


def test_clip() -> None:
    grads = [torch.tensor([3.0]), torch.tensor([4.0])]
    assert clip_(grads, 1.0).item() == pytest.approx(5.0)
    assert [g.item() for g in grads] == pytest.approx([0.6, 0.8])
    assert clip_(grads, 0.0).item() == pytest.approx(1.0)
    bad = [torch.tensor([float("nan")]), torch.tensor([4.0])]
    assert math.isnan(clip_(bad, 1.0).item()) and bad[1].item() == 4.0
