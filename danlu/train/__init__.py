"""The training room: tokens in, a model out.

A training step is one walk: batches -> model -> loss -> backward -> optimiser -> one event. Each word is a file:

* ``batches``     windows of a memory-mapped token stream, in a shuffled order that a single integer can resume
* ``loss``        cross-entropy that never holds the logits of the whole batch
* ``optim``       AdamW for vectors and tables, Muon for matrices
* ``schedule``    the learning rate as a pure function of progress, and progress from any kind of budget
* ``loop``        the generator of steps: accumulate, check, clip, update, measure
* ``constraint``  what holds meanwhile: zeros that stay, weights seen rounded;  ``divergence``  a teacher's predictions
* ``fit``         the consumer of steps: events, validation, samples, checkpoints, Ctrl-C
* ``checkpoint``  everything a run is, written atomically and read back to the same bits
* ``scaling``     from a budget of compute to width, depth, batch and learning rate, each step with its source
* ``curve``       the loss curve as a picture;  ``reference``  is this loss normal?
* ``pretrain``    the stage ``train.pretrain`` that puts them together

The room's door is ``train``, ``fit`` and the stage; post-training walks through the same loop.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.train.fit import fit
    from danlu.train.loop import Micro, Step, train
    from danlu.train.pretrain import PretrainConfig, pretrain

STAGES = ("pretrain",)

_DOORS = {
    "train": "loop",
    "Step": "loop",
    "Micro": "loop",
    "fit": "fit",
    "pretrain": "pretrain",
    "PretrainConfig": "pretrain",
}

__all__ = ["STAGES", "Micro", "PretrainConfig", "Step", "fit", "pretrain", "train"]


def __getattr__(name: str) -> Any:
    if name in _DOORS:
        return getattr(import_module(f"danlu.train.{_DOORS[name]}"), name)
    raise AttributeError(f"module 'danlu.train' has no attribute {name!r}")
