"""The consumer of steps: what a training stage does around the loop, the same for every stage.

For each step: one event. Now and then: validation, a sample of what the model writes, a checkpoint. At Ctrl-C: a
checkpoint and out. At the start: back to the last checkpoint, if there is one.

How often is given as a budget: "10%" of the run, "200 steps", "60s". Validation and samples should be in shares,
steps or tokens, since the report holds the validation curve and the same inputs must give the same report; checkpoints
may be on the clock, because when they are taken changes nothing in the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from danlu.core.budget import Budget
from danlu.core.errors import Interrupted, StageFailed, UserError
from danlu.core.stage import StageRun
from danlu.train.checkpoint import resume, save_checkpoint
from danlu.train.constraint import FREE, Constraint
from danlu.train.loop import Loss, Source, Step, train
from danlu.train.optim import Optimizer
from danlu.train.schedule import Horizon, Schedule, Spent


@dataclass
class History:
    """The curve of a run, the part of it that is the same on every machine. Rows are [step, tokens, loss]."""

    steps: list[list[float]] = field(default_factory=list)
    validation: list[list[float]] = field(default_factory=list)

    @property
    def final_loss(self) -> float | None:
        """Mean training loss of the last tenth of the steps: a single batch says little."""
        if not self.steps:
            return None
        tail = self.steps[-max(1, len(self.steps) // 10) :]
        return sum(row[2] for row in tail) / len(tail)

    @property
    def final_validation(self) -> float | None:
        return self.validation[-1][2] if self.validation else None

    @property
    def best_validation(self) -> list[float] | None:
        return min(self.validation, key=lambda row: row[2]) if self.validation else None


@dataclass
class Speed:
    """How fast it went: for metrics and events, never for the payload. Validation and saving are not in it."""

    positions: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0

    def add(self, step: Step) -> None:
        self.positions += step.tokens_per_second * step.seconds
        self.flops += step.flops_per_second * step.seconds
        self.seconds += step.seconds


@dataclass(frozen=True)
class Fitted:
    history: History
    spent: Spent
    speed: Speed


def fit(
    model: nn.Module,
    source: Source,
    optimizer: Optimizer,
    run: StageRun,
    *,
    schedule: Schedule,
    budget: Budget,
    clip: float,
    dtype: torch.dtype,
    peak_flops: float,
    checkpoint_every: Budget,
    validate: Callable[[], float] | None = None,
    validate_every: Budget,
    sample: Callable[[], list[str]] | None = None,
    sample_every: Budget,
    constraint: Constraint = FREE,
    loss_of: Loss | None = None,
) -> Fitted:
    """Train ``model`` in place until the budget is spent.

    Resumes from ``run.work`` and saves there. Raises Interrupted after Ctrl-C or SIGTERM and StageFailed when the loss
    is not finite, both with the state saved.
    """
    horizon = make_horizon(budget, run)
    history, spent, speed = History(), Spent(), Speed()
    saved = resume(run.work, model, optimizer, lambda message: run.events.emit("warning", message=message))
    if saved is not None:
        source.resume(saved["cursor"])
        spent = Spent(**saved["spent"])
        history = History(**saved["history"])
        run.events.emit("resumed", step=spent.steps, tokens=spent.tokens)

    def save() -> None:
        state = {"cursor": source.cursor(), "spent": spent.state(), "history": vars(history)}
        save_checkpoint(run.work, spent.steps, model, optimizer, state)

    with run.graceful():
        before = Spent(**spent.state())
        try:
            steps = train(
                model, source, optimizer, schedule, horizon, spent,
                clip=clip, dtype=dtype, constraint=constraint, loss_of=loss_of,
            )  # fmt: skip
            for step in steps:
                history.steps.append([step.step, step.tokens, step.loss])
                speed.add(step)
                _report(run, step, optimizer, peak_flops, horizon)
                if validate is not None and due(validate_every, before, spent, horizon):
                    _validate(run, validate, history, spent, constraint)
                if sample is not None and due(sample_every, before, spent, horizon):
                    with constraint.shown():
                        texts = sample()
                    for text in texts:
                        run.events.emit("sample", step=step.step, text=text)
                if run.stop_requested:
                    save()
                    raise Interrupted(
                        f"stopped after step {step.step}; the state is saved", "run the same again to go on"
                    )
                if due(checkpoint_every, before, spent, horizon):
                    save()
                before = Spent(**spent.state())
        except StageFailed:
            save()
            raise
        if validate is not None and (not history.validation or history.validation[-1][0] != spent.steps):
            _validate(run, validate, history, spent, constraint)
        save()  # a process killed while it writes the model need not train again
    return Fitted(history, spent, speed)


def make_horizon(budget: Budget, run: StageRun) -> Horizon:
    """The budget as something progress can be measured against."""
    if budget.kind == "share":
        raise UserError(f'a budget of "{budget}" is a share of nothing', 'give the recipe a budget, or write "3m" here')
    return Horizon(budget.kind, budget.amount)


def due(every: Budget, before: Spent, after: Spent, horizon: Horizon) -> bool:
    """Whether a multiple of ``every`` was passed between two states of the run."""
    if every.kind == "share":
        unit, size = horizon.kind, every.amount * horizon.amount
    else:
        unit, size = every.kind, every.amount
    return int(getattr(before, unit) / size) < int(getattr(after, unit) / size)


def _report(run: StageRun, step: Step, optimizer: Optimizer, peak_flops: float, horizon: Horizon) -> None:
    run.events.emit(
        "step",
        step=step.step,
        steps=int(horizon.amount) if horizon.kind == "steps" else None,
        tokens=step.tokens,
        loss=round(step.loss, 6),
        learning_rate=step.factor * optimizer.groups[0].learning_rate,
        grad_norm=round(step.grad_norm, 4),
        tokens_per_second=round(step.tokens_per_second, 1),
        share_of_peak=round(step.flops_per_second / peak_flops, 4),
        memory_bytes=step.memory_bytes,
        progress=round(step.progress, 5),
    )


def _validate(
    run: StageRun, validate: Callable[[], float], history: History, spent: Spent, constraint: Constraint
) -> None:
    with constraint.shown():
        loss = validate()
    history.validation.append([spent.steps, spent.tokens, loss])
    run.events.emit("validation", step=spent.steps, tokens=spent.tokens, loss=round(loss, 6))


def summary(fitted: Fitted, peak_flops: float) -> dict[str, Any]:
    """Metrics of a run: the part that differs from machine to machine."""
    speed = fitted.speed
    seconds = max(speed.seconds, 1e-9)
    return {
        "seconds_training": round(fitted.spent.seconds, 3),
        "tokens_per_second": round(speed.positions / seconds, 1),
        "flops_per_second": speed.flops / seconds,
        "share_of_peak": round(speed.flops / seconds / peak_flops, 4),
    }
