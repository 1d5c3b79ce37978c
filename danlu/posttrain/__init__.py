"""The post-training room: a model that continues text becomes one that answers.

    model + dataset --sft--> model        supervised fine-tuning on conversations, loss on what the assistant says

``packing`` puts several conversations into one row without letting them see each other; ``sft`` is the stage. Both
walk through the training room's loop: there is one definition of a step in danlu.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.posttrain.packing import Sample, pack
    from danlu.posttrain.sft import SftConfig, sft

STAGES = ("sft",)

_DOORS = {"Sample": "packing", "pack": "packing", "SftConfig": "sft", "sft": "sft"}

__all__ = ["STAGES", "Sample", "SftConfig", "pack", "sft"]


def __getattr__(name: str) -> Any:
    if name in _DOORS:
        return getattr(import_module(f"danlu.posttrain.{_DOORS[name]}"), name)
    raise AttributeError(f"module 'danlu.posttrain' has no attribute {name!r}")
