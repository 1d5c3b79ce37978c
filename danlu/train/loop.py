"""The training loop: a generator of steps.

    for step in train(model, source, optimizer, ...):
        print(step.step, step.loss)

One step is: take micro-batches, run each forward and backward, look at the loss and the gradient, clip, update. What
to do with a step (log it, validate, save, stop) is the business of whoever consumes the generator; see ``fit``.

Accumulation is exact. The gradient of a step is that of the mean over all its counted targets, however they are cut
into micro-batches. A mean of the micro-batches' means would weigh a target in a nearly empty micro-batch more than
one in a full one, which is the oldest bug of fine-tuning loops. So each micro-batch contributes the *sum* of its
losses divided by the number of targets of the *whole* step, which is known before the first forward pass.

Nothing that is not finite reaches the weights. A loss or gradient norm that is NaN or infinite stops the generator
before the update, with the data cursor put back to the batch that did it: what is saved then shows the failure again.

Precision: parameters, gradients and optimiser state are float32. Where the device multiplies bfloat16 faster, the
forward pass runs under autocast, one region around all micro-batches of a step, so each weight is cast once a step.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from danlu.core.device import peak_bytes
from danlu.core.errors import StageFailed
from danlu.train.constraint import FREE, Constraint
from danlu.train.loss import IGNORE, cross_entropy
from danlu.train.optim import Optimizer, clip_
from danlu.train.schedule import Horizon, Schedule, Spent


@dataclass(frozen=True)
class Micro:
    """What one forward and backward pass works on.

    inputs, targets [B, T] int64. For rows packed from several samples: positions [B, T] that restart with each sample
    and segments [B, T], the number of the sample a token belongs to; attention stays within a segment.
    """

    inputs: Tensor
    targets: Tensor
    positions: Tensor | None = None
    segments: Tensor | None = None


class Source(Protocol):
    """Where steps get their data: batches that can say where they are and go back there."""

    def next_step(self) -> list[Micro]: ...

    def cursor(self) -> dict[str, Any]: ...

    def resume(self, cursor: dict[str, Any]) -> None: ...


class LanguageModel(Protocol):
    """What the loop needs of a model: hidden states, the head's weight and a count of operations."""

    def hidden(self, ids: Tensor, positions: Tensor | None = None, context: Any = None) -> Tensor: ...

    def flops_per_token(self, length: int) -> float: ...


Loss = Callable[[nn.Module, Micro, torch.device], tuple[Tensor, int]]  # sum over a micro-batch, number of targets


@dataclass(frozen=True)
class Step:
    """What one step did. loss: mean over the targets, before the update. seconds: this step alone."""

    step: int  # counts from 1
    tokens: int  # targets trained on since the beginning
    loss: float
    grad_norm: float
    factor: float  # of the schedule; multiplies every learning rate
    progress: float  # of the budget, after this step
    seconds: float
    tokens_per_second: float  # positions computed per second, ignored targets included
    flops_per_second: float  # of the model alone: 3 forward passes a step, by convention; no optimiser, no validation
    memory_bytes: int


def train(
    model: nn.Module,
    source: Source,
    optimizer: Optimizer,
    schedule: Schedule,
    horizon: Horizon,
    spent: Spent,
    *,
    clip: float = 1.0,
    dtype: torch.dtype = torch.float32,
    constraint: Constraint = FREE,
    loss_of: Loss | None = None,
) -> Iterator[Step]:
    """Train until the budget is spent, yielding after every update.

    ``loss_of``: what is minimised, the sum over a micro-batch and its number of targets; None: cross-entropy.
    ``spent`` is updated in place; its seconds run on while the consumer works, since a person's three minutes do too.
    Raises StageFailed before an update that is not finite.
    """
    model.train()
    keep_freed_memory()
    device = next(model.parameters()).device
    clock = time.perf_counter()
    while not horizon.over(spent):
        cursor = source.cursor()
        micros = source.next_step()
        flops = sum(m.inputs.numel() * model_flops(model, m.inputs.shape[1]) for m in micros)
        counted = sum(int((m.targets != IGNORE).sum()) for m in micros)
        cost = {"steps": 1.0, "tokens": float(counted), "flops": flops}.get(horizon.kind, spent.cost)
        factor = schedule(horizon.middle(spent, cost))
        begin = time.perf_counter()
        with constraint.shown():
            loss, norm = _gradient(model, micros, counted, device, dtype, optimizer, clip, loss_of)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            source.resume(cursor)
            what = "loss" if not math.isfinite(loss) else "gradient"
            raise StageFailed(
                f"the {what} of step {spent.steps + 1} is not finite (loss {loss}, gradient norm {norm})",
                "the weights from before it are saved; lower learning_rate, lengthen warmup, or look at the data",
            )
        constraint.before_update()
        optimizer.step(factor)
        constraint.after_update()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        seconds = now - begin
        before = horizon.spent(spent)
        positions = sum(micro.inputs.numel() for micro in micros)
        spent.add(tokens=counted, flops=flops)
        spent.seconds += now - clock
        clock = now
        spent.learn_cost(horizon.spent(spent) - before)  # with a clock, the consumer's work included
        yield Step(
            step=spent.steps,
            tokens=spent.tokens,
            loss=loss,
            grad_norm=norm,
            factor=factor,
            progress=min(horizon.spent(spent) / horizon.amount, 1.0),
            seconds=seconds,
            tokens_per_second=positions / seconds,
            flops_per_second=flops / seconds,
            memory_bytes=memory_in_use(device),
        )


def _gradient(
    model: nn.Module, micros: list[Micro], counted: int, device: torch.device, dtype: torch.dtype,
    optimizer: Optimizer, clip: float, loss_of: Loss | None = None,
) -> tuple[float, float]:  # fmt: skip
    """Gradients of the mean loss over the ``counted`` targets of all micro-batches, clipped; (loss, norm before)."""
    total = torch.zeros((), device=device)
    with precision(device, dtype):
        for micro in micros:
            loss, _ = (loss_of or micro_loss)(model, micro, device)
            total += loss.detach()
            with torch.autocast(device.type, enabled=False):  # nested, so the casts of the region outside stay cached
                (loss / max(counted, 1)).backward()
    grads = [param.grad for param in optimizer.params if param.grad is not None]
    norm = clip_(grads, clip)
    return float(total) / max(counted, 1), float(norm)


def micro_loss(model: nn.Module, micro: Micro, device: torch.device) -> tuple[Tensor, int]:
    """Sum of the losses of one micro-batch and the number of targets."""
    targets = micro.targets.to(device, non_blocking=True)
    return cross_entropy(micro_hidden(model, micro, device), head_weight(model), targets)


def micro_hidden(model: nn.Module, micro: Micro, device: torch.device) -> Tensor:
    """Hidden states [B, T, D] of one micro-batch, ready for the head."""
    inputs = micro.inputs.to(device, non_blocking=True)
    positions = None if micro.positions is None else micro.positions.to(device)
    context = None
    if micro.segments is not None:
        from danlu.model.attention import SegmentContext

        context = SegmentContext(micro.segments.to(device))
    return model.hidden(inputs, positions, context)  # type: ignore[operator]


def precision(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Autocast to ``dtype``, or nothing at all for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def head_weight(model: nn.Module) -> Tensor:
    """The matrix [V, D] that turns hidden states into logits (the embedding where they are tied)."""
    return model.head_weight  # type: ignore[return-value]


def model_flops(model: nn.Module, length: int) -> float:
    """Operations to train on one token in rows of ``length``: forward, and twice that backward."""
    return float(model.flops_per_token(length))  # type: ignore[operator]


def memory_in_use(device: torch.device) -> int:
    """The most bytes this process has held so far: on the accelerator if there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_bytes()


def keep_freed_memory() -> None:
    """Let this process keep the memory that a step frees, up to 1 GiB: the next step asks for the same again.

    By itself glibc gives large blocks back to the system at once and gets them again page by page, each page cleared:
    three thousand page faults a step of the smallest preset, a tenth of its time. Elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: the most that it takes
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


@torch.no_grad()
def mean_loss(model: nn.Module, micros: Iterator[Micro], dtype: torch.dtype = torch.float32) -> tuple[float, int]:
    """Mean loss over micro-batches without training, and the number of targets; the model's mode is restored."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total, counted = 0.0, 0
    with precision(device, dtype):
        for micro in micros:
            loss, count = micro_loss(model, micro, device)
            total += float(loss)
            counted += count
    model.train(was_training)
    return total / max(counted, 1), counted
