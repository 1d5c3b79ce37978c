"""All generators come back to where they were."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from danlu.train.checkpoint import checkpoints, resume, save_checkpoint
from tests.train.test_loop import setup


def draw() -> tuple[float, float, float, float]:
    return random.random(), random.gauss(0, 1), float(np.random.normal()), float(torch.rand(()))


def test_generators_round_trip(tmp_path: Path) -> None:
    model, _, optimizer = setup()
    draw()  # leaves half a pair in the Gaussian generators
    save_checkpoint(tmp_path, 1, model, optimizer, {"note": 0.1})
    expected = [draw() for _ in range(3)]
    assert resume(tmp_path, model, optimizer) == {"note": 0.1}
    assert [draw() for _ in range(3)] == expected


def test_keeps_two_and_starts_from_nothing(tmp_path: Path) -> None:
    model, _, optimizer = setup()
    assert resume(tmp_path, model, optimizer) is None
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, model, optimizer, {})
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000015", "step-00000010"]
