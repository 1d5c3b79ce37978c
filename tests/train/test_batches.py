"""Every token once per epoch; one integer resumes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.train.batches import Batches, Windows
from danlu.train.loss import IGNORE


def test_picture_of_the_docstring() -> None:
    windows = Windows([np.arange(9, dtype=np.uint16)], 3)
    inputs, targets = windows.rows([0, 1, 2])
    assert inputs.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 0]]
    assert targets.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, IGNORE]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 5))
def test_every_token_is_a_target_once_per_epoch(lengths: list[int], context: int, seed: int) -> None:
    starts = np.cumsum([0, *lengths])
    shards = [np.arange(a, a + n, dtype=np.uint32) for a, n in zip(starts, lengths, strict=False)]
    if not any(n >= 2 for n in lengths):
        with pytest.raises(UserError):
            Batches(shards, context, seed=seed)
        return
    batches = Batches(shards, context, seed=seed)
    for _ in range(2):
        seen: Counter[int] = Counter()
        for _ in range(len(batches.windows)):
            inputs, targets = batches.next(1)
            asked = targets != IGNORE
            assert (inputs[asked] + 1 == targets[asked]).all()  # the stream counts upwards
            seen.update(targets[asked].tolist())
        assert seen == Counter(int(t) for shard in shards for t in shard[1:])


def test_resume_is_exact_across_an_epoch() -> None:
    shard = np.random.default_rng(0).integers(0, 100, 101).astype(np.uint16)
    straight = Batches([shard], 10, seed=3)
    straight.next(7)
    cursor = straight.cursor()
    resumed = Batches([shard], 10, seed=3)
    resumed.resume(cursor)
    for _ in range(5):
        for a, b in zip(straight.next(3), resumed.next(3), strict=True):
            assert torch.equal(a, b)


def test_seed_changes_the_order_and_epochs_differ() -> None:
    shard = np.arange(1001, dtype=np.uint16)
    first, again, other = (Batches([shard], 10, seed=s).next(100)[0] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    batches = Batches([shard], 10, seed=1)
    assert not torch.equal(batches.next(100)[0], batches.next(100)[0])
