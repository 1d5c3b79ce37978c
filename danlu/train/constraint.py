"""What holds while a model is trained: zeros that stay, weights that the model only sees rounded.

The loop asks a constraint at three moments of a step, and the stage once more at the end:

    with constraint.shown():      the weights are those the model shall compute with: training, validation, samples
        loss.backward()
    constraint.before_update()    gradients as the optimiser shall see them
    optimizer.step()
    constraint.after_update()     the trained weights put right
    ...
    constraint.settle()           the model as it is to be saved

What a constraint knows it takes from the model it was made for, before a checkpoint is read: it has no state of its
own to save.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Constraint:
    """None. Others say what they change."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        yield

    def before_update(self) -> None:
        return

    def after_update(self) -> None:
        return

    def settle(self) -> None:
        return


FREE = Constraint()


class Zeros(Constraint):
    """What is 0 in these parameters now stays 0: its gradient counts for nothing, and no update moves it.

    An optimiser that mixes the entries of a matrix, as Muon does, moves those without a gradient too: hence both.
    """

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        found = ((param, param.detach() == 0) for param in params)
        self.zeros: list[tuple[nn.Parameter, Tensor]] = [(param, zero) for param, zero in found if bool(zero.any())]

    def before_update(self) -> None:
        for param, zero in self.zeros:
            if param.grad is not None:
                param.grad.masked_fill_(zero, 0)

    @torch.no_grad()
    def after_update(self) -> None:
        for param, zero in self.zeros:
            param.masked_fill_(zero, 0)
