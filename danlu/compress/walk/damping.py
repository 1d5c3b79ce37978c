"""Hessians that have no Cholesky factor as they are: damped until they have one, and told about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from danlu.core.events import Events

TRIES = 8  # dampings, each ten times the one before


def lower_factor(hessian: Tensor, damp: float) -> tuple[Tensor | None, int]:
    """L [K, K] with L L^T = H + d I, and how often d, at first `damp` times the mean diagonal, had to be raised.

    None where nothing helps, or nothing is known of the inputs.

    >>> lower_factor(torch.tensor([[1.0, 3.0], [3.0, 1.0]]), 0.5)[1]
    1
    """
    mean = hessian.diagonal().mean()
    if not (mean > 0 and torch.isfinite(mean)):
        return None, 1
    for raised in range(TRIES):
        damped = hessian.clone()
        damped.diagonal().add_(damp * mean * 10**raised)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return lower, raised
    return None, TRIES


def tell_damping(facts: Iterable[Mapping[str, Any]], events: Events) -> None:
    """One warning for all blocks that had a matrix whose Hessian was damped more than usual (`damped_again`)."""
    blocks = [str(index) for index, block in enumerate(facts) if block.get("damped_again", 0)]
    if blocks:
        which = ("block " if len(blocks) == 1 else "blocks ") + ", ".join(blocks)
        events.emit(
            "warning",
            message=f"{which}: a Hessian was not positive definite and was damped more; "
            "longer or more varied calibration text would help",
        )
