from __future__ import annotations

import pytest
import torch

from danlu.compress.prune.pattern import Pattern
from danlu.core.errors import UserError


def test_worked_example() -> None:
    half, two_of_four = Pattern(0.5), Pattern.parse(0.5, "2:4")
    scores = torch.tensor([[4.0, 1, 3, 2]])
    for pattern in (half, two_of_four):
        assert pattern.lowest(scores).tolist() == [[False, True, False, True]]
    scores = torch.tensor([[4.0, 3, 1, 2, 8, 9, 6, 7]])
    assert scores[half.lowest(scores)].tolist() == [4, 3, 1, 2]
    assert scores[two_of_four.lowest(scores)].tolist() == [1, 2, 6, 7]


def test_all_rows_compared() -> None:
    scores = torch.tensor([[1.0, 2], [3, 4]])
    assert Pattern(0.5).lowest_of_all(scores).tolist() == [[True, True], [False, False]]
    assert Pattern(0.5).lowest(scores).tolist() == [[True, False], [True, False]]


def test_of_equal_scores_the_first_go() -> None:
    assert Pattern(0.5).lowest(torch.zeros(1, 6)).tolist() == [[True] * 3 + [False] * 3]


def test_wrong_patterns() -> None:
    for text in ("4:2", "2", "0:4", "two:four", "4:4"):
        with pytest.raises(UserError, match="no pattern of zeros"):
            Pattern.parse(0.5, text)
    with pytest.raises(UserError, match=r"2:4 does not divide the 6 columns of mlp\.down"):
        Pattern.parse(0.5, "2:4").check(6, "mlp.down")
