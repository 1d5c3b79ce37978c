"""Parts that go: worked examples, and models that are smaller and otherwise right."""

from __future__ import annotations

import math

import pytest
import torch

from danlu.compress.prune.structure import Channels, HeadGroups, Layers, influence, part_importance, refit, spread
from danlu.core.errors import UserError
from danlu.model.config import ModelConfig

H = torch.tensor([[4.0, 0, 2], [0, 4, 0], [2, 0, 1]])


def config(**changes: object) -> ModelConfig:
    shape = {"family": "llama", "vocab_size": 64, "hidden_size": 32, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2}
    return ModelConfig(**{**shape, "intermediate_size": 96, **changes})  # type: ignore[arg-type]


def test_importance_and_refit() -> None:
    weight = torch.tensor([[3.0, 1, 2]])
    assert part_importance(weight, H, 1).tolist() == [36, 4, 4]
    assert refit(weight, H, torch.tensor([0, 1]))[0].flatten().tolist() == pytest.approx([4, 1], abs=0.02)


def test_a_part_counts_with_what_its_columns_do_together() -> None:
    h = torch.tensor([[1.0, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert part_importance(torch.ones(1, 4), h, 2).tolist() == [0, 2]  # the first two always cancel


def test_influence() -> None:
    before = torch.tensor([[[1.0, 0], [1, 0]]])
    assert influence(before, torch.tensor([[[3.0, 0], [2, 0]]])) == pytest.approx(0, abs=1e-6)
    assert influence(before, torch.tensor([[[1.0, 1], [1, 1]]])) == pytest.approx(1 - 1 / math.sqrt(2), abs=1e-6)


def test_spread() -> None:
    assert spread(torch.tensor([0, 2]), 2).tolist() == [0, 1, 4, 5]


def test_shapes() -> None:
    assert Channels(config(), 0.3).after().intermediate_size == 64  # in steps of 32
    assert Channels(config(intermediate_size=50), 0.3).after().intermediate_size == 35
    after = HeadGroups(config(), 0.5).after()
    assert (after.n_heads, after.n_kv_heads, after.head_dim) == (2, 1, 8)


def test_the_layers_that_turn_most_stay_and_their_windows_move_along() -> None:
    pruner = Layers(config(sliding_window=8, sliding_layers=(1, 3)), 0.5)
    layers = pruner.layers([{"influence": value} for value in (0.2, 0.1, 0.05, 0.3)])
    assert layers == [0, 3]
    after = pruner.after(layers)
    assert (after.n_layers, after.sliding_layers) == (2, (1,))


def test_shares_that_take_nothing_or_all() -> None:
    for make, share in ((Channels, 0.1), (Channels, 0.9), (HeadGroups, 0.2), (HeadGroups, 0.8), (Layers, 0.1)):
        with pytest.raises(UserError, match="leaves"):
            make(config(), share)
    with pytest.raises(UserError, match="prune channels or layers"):
        HeadGroups(config(n_kv_heads=1), 0.4)
