"""The learning rate as a pure function of progress, and progress as a pure function of what was spent.

A schedule never counts steps. It maps progress in [0, 1] to a factor in [0, 1] that multiplies every learning rate:

    cosine    warm up linearly, then half a cosine down to ``final`` (Loshchilov & Hutter, arXiv:1608.03983)
    wsd       warm up, stay, decay in a straight line over the last ``decay`` of the run ("warmup-stable-decay":
              MiniCPM, Hu et al., arXiv:2404.06395, section 4.2; a linear tail after Hägele et al., arXiv:2405.18392)
    constant  warm up, stay

Progress comes from whichever thing the budget limits: steps, tokens, floating-point operations, or seconds on the
wall. A run with "3m" on a slow laptop and on a fast one thus both walk the whole curve, warm-up to decay, which a
schedule in steps cannot do.

The factor is taken in the middle of a step: with n steps the i-th (from 0) sits at (i + 1/2) / n. So no step has
factor 0, and the mean over the steps is the integral of the curve whatever n is.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

ScheduleName = Literal["cosine", "wsd", "constant"]


@dataclass(frozen=True)
class Schedule:
    """warmup and decay are shares of the whole run; final is the factor at its end."""

    name: ScheduleName = "wsd"
    warmup: float = 0.02
    decay: float = 0.4
    final: float = 0.0

    def __call__(self, progress: float) -> float:
        """The factor at ``progress``; values outside [0, 1] are clamped."""
        p = min(max(progress, 0.0), 1.0)
        if p < self.warmup:
            return p / self.warmup
        if self.name == "cosine":
            along = (p - self.warmup) / max(1.0 - self.warmup, 1e-12)
            return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * along))
        if self.name == "wsd" and p > 1.0 - self.decay:
            left = (1.0 - p) / self.decay
            return self.final + (1.0 - self.final) * left
        return 1.0


@dataclass
class Spent:
    """What a run has used up so far. Part of every checkpoint, so that a resumed run goes on counting.

    ``cost`` is what a step takes of the budget, in the budget's unit, smoothed over the last few steps. It decides when
    to stop and so belongs to the state: a resumed run must not have forgotten it.
    """

    steps: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    cost: float = 0.0

    def learn_cost(self, cost: float) -> None:
        self.cost = cost if self.cost == 0.0 else 0.8 * self.cost + 0.2 * cost

    def add(self, *, tokens: int, flops: float) -> None:
        self.steps += 1
        self.tokens += tokens
        self.flops += flops

    def state(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Horizon:
    """A budget that can be asked how far along a run is. kind: "steps", "tokens", "flops" or "seconds"."""

    kind: str
    amount: float

    def spent(self, spent: Spent) -> float:
        return float(getattr(spent, self.kind))

    def middle(self, spent: Spent, cost: float) -> float:
        """Progress in the middle of the next step, if that step costs ``cost`` of the budget's unit."""
        return min((self.spent(spent) + cost / 2) / self.amount, 1.0)

    def over(self, spent: Spent) -> bool:
        """Whether to stop before the next step: when less than half of it would still fit.

        Steps and tokens therefore end on the step nearest to the budget, and a wall-clock budget is missed by at
        most half a step instead of being overrun by a whole one. The first step is always taken.
        """
        if spent.steps == 0:
            return False
        left = self.amount - self.spent(spent)
        return left <= 0 or left < spent.cost / 2
