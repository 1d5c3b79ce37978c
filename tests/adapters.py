"""Random LoRA adapters, large enough that an answer shows which one it had."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from danlu.model.adapter import Adapter, LowRank, places
from danlu.model.config import ModelConfig


def make_adapter(
    config: ModelConfig, seed: int = 0, rank: int = 4, ends: Sequence[str] = (), scale: float = 2.0, size: float = 1.0
) -> Adapter:
    """Parts for all matrices, or for those whose names end so. `size` is about that of what it adds to an output."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for name, place in places(config).items():
        if ends and not name.endswith(tuple(ends)):
            continue
        a = torch.randn(rank, place.columns, generator=generator) * place.columns**-0.5
        b = torch.randn(place.rows, rank, generator=generator) * (size / scale * rank**-0.5)
        parts.append(LowRank(place.module, place.first, a, b, scale))
    return Adapter(tuple(parts))
