"""The likeliest token of every row, and the step that follows."""

from __future__ import annotations

import math

import pytest
import torch

from tests.kernels.on_gpu import DEVICE, FLOATS, best, kernels_on, random  # noqa: F401

pytestmark = pytest.mark.usefixtures("kernels_on")


def found(logits: torch.Tensor) -> tuple[list[float], list[int]]:
    got = best.best_tokens(logits)
    assert got.shape == (2, len(logits)) and got.dtype == torch.int32
    return got[0].view(torch.float32).tolist(), got[1].tolist()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("vocabulary", [1, 31, best.BLOCK, best.BLOCK + 1, 3 * best.BLOCK + 77])
def test_the_largest_of_every_row(vocabulary: int, dtype: torch.dtype) -> None:
    logits = random(5, vocabulary, dtype=dtype)
    values, ids = best.best_tokens_reference(logits)
    assert found(logits) == (values.tolist(), ids.tolist())


def test_of_equal_logits_the_first() -> None:
    logits = torch.zeros(3, 2 * best.BLOCK + 5, device=DEVICE)
    logits[1, [7, 9, best.BLOCK + 1]] = 2.0
    logits[2, [best.BLOCK + 3, 2 * best.BLOCK + 1]] = 1.0
    assert found(logits) == ([0.0, 2.0, 1.0], [0, 7, best.BLOCK + 3])


def test_a_row_without_a_number_is_not_finite() -> None:
    logits = random(4, best.BLOCK + 9)
    logits[0, best.BLOCK + 2] = math.nan
    logits[1] = -math.inf
    logits[2, 5] = math.inf
    values, ids = found(logits)
    assert not any(math.isfinite(value) for value in values[:3]) and math.isfinite(values[3])
    assert ids[2] == 5 and all(0 <= token < logits.shape[1] for token in ids[2:])


def test_the_next_step_of_every_row() -> None:
    """Into the same block, into the next one, a row of padding, and one whose table has ended."""
    ids, positions, slots = (torch.tensor(row, device=DEVICE) for row in ([3, 4, 5, 6], [4, 7, 0, 11], [36, 15, -1, 7]))
    lines = torch.tensor([[0, 1, 5, 2, 9], [1, 1, 8, 3, 1], [0, 0, 0, 5, 5], [3, 1, 12, 4, 1]], dtype=torch.int32)
    step = [ids, positions, slots, lines.to(DEVICE)]
    wanted = [tensor.clone() for tensor in step]
    tokens = torch.tensor([[0, 0, 0, 0], [70_000, 1, 2, 3]], dtype=torch.int32, device=DEVICE)
    best.follow_reference(tokens, *wanted, 4)
    best.follow(tokens, *step, 4)
    assert all(torch.equal(got, one) for got, one in zip(step, wanted, strict=True))
    assert step[0].tolist() == [70_000, 1, 2, 3] and step[1].tolist() == [5, 8, 1, 12]
    assert step[2].tolist() == [9 * 4 + 1, 0, -1, 0]
    assert step[3][:, 2].tolist() == [6, 9, 0, 13]


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"logits is torch\.int64"):
        best.best_tokens(torch.zeros(2, 3, dtype=torch.int64, device=DEVICE))
    row, lines = torch.zeros(1, dtype=torch.int64, device=DEVICE), torch.zeros(1, 5, dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match=r"found is \[2, 2\], it must be \[2, 1\]"):
        best.follow(torch.zeros(2, 2, dtype=torch.int32, device=DEVICE), row, row, row, lines, 16)
