from __future__ import annotations

import pytest
import torch

from danlu.core.errors import UserError
from danlu.engine import Pooling, Sampling
from danlu.engine.pooling import Pool

ROWS = torch.tensor([[3.0, 0.0], [0.0, 8.0], [0.0, 4.0]])


def test_by_hand() -> None:
    mean, last = Pool(Pooling("mean", normalize=False)), Pool(Pooling("last"))
    mean.add(ROWS[:2])
    mean.add(ROWS[2:])
    assert mean.vector() == (1.0, 4.0)
    last.add(ROWS[2:])
    assert last.vector() == (0.0, 1.0)
    unit = Pool(Pooling("mean"))
    unit.add(torch.tensor([[6.0, 0.0], [0.0, 8.0]]))  # mean [3, 4], length 5
    assert unit.vector() == pytest.approx((0.6, 0.8))


def test_which_rows_are_wanted() -> None:
    """A text of 7 tokens, read in chunks; three rows were added before it was read again from the start."""
    last, mean = Pool(Pooling("last")), Pool(Pooling("mean"))
    assert [last.wanted(*chunk, 7) for chunk in ((0, 3), (3, 6), (6, 7), (0, 7))] == [0, 0, 1, 1]
    assert [mean.wanted(*chunk, 7) for chunk in ((0, 3), (0, 7))] == [3, 7]
    mean.add(torch.zeros(3, 2))
    assert [mean.wanted(*chunk, 7) for chunk in ((0, 2), (0, 5), (3, 7), (5, 7))] == [0, 2, 4, 2]


def test_bits_of_a_mean_do_not_depend_on_the_cuts() -> None:
    """Numbers of very different size, whose sum depends on the order in float64 too."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 8, generator=generator) * 10 ** torch.empty(400, 1).uniform_(-12, 12, generator=generator)
    vectors = set()
    for size in (1, 7, 64, 400):
        pool = Pool(Pooling("mean", normalize=False))
        for chunk in rows.split(size):
            pool.add(chunk)
        assert pool._sum is not None
        vectors.add(tuple(pool._sum.tolist()))
    assert len(vectors) == 1
    assert tuple(rows.double().flip(0).cumsum(0)[-1].tolist()) not in vectors, "the order matters for these numbers"


def test_zeros_stay_zeros_and_nan_is_no_vector() -> None:
    zero, broken = Pool(Pooling("last")), Pool(Pooling("mean"))
    zero.add(torch.zeros(1, 3))
    assert zero.vector() == (0.0, 0.0, 0.0)
    broken.add(torch.tensor([[1.0], [float("nan")], [2.0]]))
    assert broken.vector() is None


def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(UserError, match=r'pooling is .first.*must be "last" or "mean"'):
        Pooling("first")
    with pytest.raises(UserError, match="normalize"):
        Pooling(normalize=1)  # type: ignore[arg-type]
    for wrong in ({"max_tokens": 1}, {"max_tokens": None}, {"n": 2}, {"prompt_logprobs": 0}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} is .* beside pooling"):
            Sampling(**{"max_tokens": 0, "pooling": Pooling()} | wrong)
