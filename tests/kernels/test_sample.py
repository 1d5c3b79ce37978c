"""Tokens drawn by the compiled library against the definition in torch."""

from __future__ import annotations

import pytest
import torch

from danlu.engine.request import Sampling
from danlu.engine.sampling import distribution, draw
from danlu.kernels.build import library
from danlu.kernels.sample import draw_tokens

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels here")

SETTINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.7, top_k=1),
    Sampling(temperature=0.7, top_k=40),
    Sampling(temperature=1.3, top_p=0.9),
    Sampling(temperature=0.01, top_p=0.5),
    Sampling(temperature=2.0, top_p=0.999),
    Sampling(temperature=1.0, min_p=0.05),
    Sampling(temperature=0.9, top_k=50, top_p=0.8, min_p=0.02),
]


def ours(logits: torch.Tensor, settings: list[Sampling], uniform: list[float]) -> list[int]:
    columns = [[getattr(s, name) for s in settings] for name in ("temperature", "top_k", "top_p", "min_p")]
    drawn = draw_tokens(logits, *columns, uniform)
    assert drawn is not None
    return drawn


@pytest.mark.parametrize("vocab", [1, 5, 16, 1000, 49_157])
@pytest.mark.parametrize("width", [0.1, 1.0, 8.0])
def test_the_same_tokens_as_in_torch(vocab: int, width: float) -> None:
    generator = torch.Generator().manual_seed(vocab)
    n = 400 if vocab < 10_000 else 40
    different = total = 0
    for how in SETTINGS:
        logits = width * torch.randn(n, vocab, generator=generator)
        uniform = torch.rand(n, dtype=torch.float64, generator=generator)
        expected = draw(distribution(logits, [how] * n), uniform).tolist()
        drawn = ours(logits, [how] * n, uniform.tolist())
        different += sum(a != b for a, b in zip(drawn, expected, strict=True))
        total += n
    assert different <= total // 500  # a number that falls on a border


def test_what_is_cut_is_never_drawn() -> None:
    """The worked example of `distribution`, at numbers all over [0, 1)."""
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    grid = [i / 1000 for i in range(1000)]
    for how, kept in (
        (Sampling(temperature=1, top_k=2), [0.625, 0.375, 0, 0]),
        (Sampling(temperature=1, top_p=0.7), [0.625, 0.375, 0, 0]),
        (Sampling(temperature=1, min_p=0.25), [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
    ):
        drawn = ours(logits.expand(1000, 4), [how] * 1000, grid)
        assert drawn == sorted(drawn), "in order of id"
        assert [drawn.count(i) / 1000 for i in range(4)] == pytest.approx(kept, abs=0.002)


def test_of_equals_at_the_cut_the_lower_ids_stay_and_a_mask_holds() -> None:
    flat = torch.zeros(1, 50)
    assert set(ours(flat.expand(100, 50), [Sampling(temperature=1, top_k=3)] * 100, [i / 100 for i in range(100)])) == {
        0,
        1,
        2,
    }
    flat[0, :47] = -torch.inf
    for how in (Sampling(temperature=1), Sampling(temperature=1, top_k=40), Sampling(temperature=1, top_p=0.99)):
        drawn = ours(flat.expand(100, 50), [how] * 100, [i / 100 for i in range(100)])
        assert set(drawn) == {47, 48, 49}
