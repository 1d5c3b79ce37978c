"""What every training stage shares: its config, the choice of dtype, and the way from a model and batches to a payload.

    model + source of steps  --->  fit  --->  config.json, model.safetensors, the tokenizer, report.json, loss.svg

``train.pretrain`` and the stages of the room above prepare the two things on the left, each in its own way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from danlu.core.artifact import write_json
from danlu.core.budget import Budget
from danlu.core.errors import UserError
from danlu.core.stage import StageConfig, StageRun

if TYPE_CHECKING:
    import torch

    from danlu.core.device import Device
    from danlu.model.config import ModelConfig
    from danlu.tokenizer.tokenizer import Tokenizer
    from danlu.train.constraint import Constraint
    from danlu.train.fit import Fitted
    from danlu.train.loop import Loss, Source
    from danlu.train.optim import Optimizer

MICRO_TOKENS = {"cpu": 4096, "cuda": 65536}  # positions in one forward pass where memory allows


class TrainingConfig(StageConfig):
    """Keys that every training stage has."""

    budget: Budget = Budget("seconds", 180)
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float | None = Field(default=None, gt=0)  # of the matrices; None: derived
    vector_learning_rate: float | None = Field(default=None, gt=0)  # of embeddings and norms; None: the same
    weight_decay: float = Field(default=0.1, ge=0)
    schedule: Literal["cosine", "wsd", "constant"] = "wsd"
    warmup: float = Field(default=0.02, ge=0, lt=1)  # share of the budget
    decay: float = Field(default=0.5, gt=0, le=1)  # share of the budget, schedule wsd
    final: float = Field(default=0.0, ge=0, le=1)  # factor of the learning rate at the end
    clip: float = Field(default=1.0, ge=0)  # gradient norm; 0 does not clip
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the multiplications; auto: whichever is faster here
    seed: int = 0
    micro_batch: int | None = Field(default=None, ge=1)  # rows of one forward pass; None: what suits the device
    checkpoint_every: Budget = Budget("seconds", 60)
    validate_every: Budget = Budget("share", 0.2)
    sample_every: Budget = Budget("share", 0.2)
    sample_tokens: int = Field(default=48, ge=1)
    reference: str = ""  # the name in recipes/bands.json that the final loss is held against


def train_model(
    model: Any, tokenizer: Tokenizer, source: Source, config: TrainingConfig, run: StageRun, *,
    learning_rate: float, context: int, dtype: torch.dtype, peak_flops: float,
    validate: Callable[[], float] | None, sample: Callable[[], list[str]] | None, extra: Callable[[], dict[str, Any]],
    constraint: Constraint | None = None, loss: Loss | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train to the end of the budget (from where a killed run stopped), write the payload, return the metrics.

    ``validate`` and ``sample`` are called as often as the config says; ``extra`` once, after the last step, for what
    only this kind of stage reports. ``constraint``: what holds meanwhile. ``loss``: what is minimised; None:
    cross-entropy. Raises what ``fit`` raises.
    """
    from danlu.model.hub import save_model
    from danlu.train.constraint import FREE
    from danlu.train.fit import fit
    from danlu.train.schedule import Schedule

    optimizer = build_optimizer(model, config, learning_rate, dtype)
    constraint = constraint or FREE
    fitted = fit(
        model, source, optimizer, run,
        schedule=Schedule(config.schedule, config.warmup, config.decay, config.final),
        budget=config.budget, clip=config.clip, dtype=dtype, peak_flops=peak_flops,
        checkpoint_every=config.checkpoint_every,
        validate=validate, validate_every=config.validate_every,
        sample=sample, sample_every=config.sample_every,
        constraint=constraint, loss_of=loss,
    )  # fmt: skip
    facts = {
        "vocab_size": model.config.vocab_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "context": context,
    }
    constraint.settle()
    save_model(model, run.out, tokenizer)
    return write_report(run, fitted, optimizer, facts, extra(), config.reference, peak_flops)


def choose_dtype(config: TrainingConfig, machine: Device) -> tuple[torch.dtype, float]:
    """The dtype of the multiplications, the recipe's or the faster one as measured, and its measured matrix peak."""
    import torch

    name = machine.dtype if config.dtype == "auto" else config.dtype
    if name not in machine.matmul_flops:
        raise UserError(f"{machine.name} cannot multiply in {name}", "leave dtype out, or write float32")
    return getattr(torch, name), machine.matmul_flops[name]


def build_optimizer(model: Any, config: TrainingConfig, learning_rate: float, dtype: torch.dtype) -> Optimizer:
    """The optimiser a config asks for, fused projections cut at the seams that the model tells."""
    from danlu.train.optim import make_optimizer

    return make_optimizer(
        model,
        name=config.optimizer,
        learning_rate=learning_rate,
        vector_learning_rate=config.vector_learning_rate,
        weight_decay=config.weight_decay,
        matrix_dtype=dtype,
        splits=model.splits,
    )


def rows_that_fit(machine: Device, shape: ModelConfig, context: int) -> int:
    """Rows of one forward pass that the device likes and can hold.

    What a layer keeps for its backward pass is counted generously, in float32: 8 vectors of the width, 4 of the inner
    width, the projections twice. At most a third of the memory goes to that; weights and moments need room too.
    """
    per_layer = 8 * shape.hidden_size + 4 * shape.intermediate_size + 2 * sum(shape.qkv_sizes)
    fits = machine.memory_bytes / 3 / (4 * per_layer * shape.n_layers)
    return max(1, int(min(MICRO_TOKENS.get(machine.kind, 4096), fits) // context))


def write_report(
    run: StageRun, fitted: Fitted, optimizer: Optimizer, facts: dict[str, Any], extra: dict[str, Any],
    reference: str, peak: float,
) -> dict[str, Any]:  # fmt: skip
    """Write report.json and loss.svg into the payload; returns the metrics of the stage."""
    from danlu.train.curve import loss_curve, thin
    from danlu.train.fit import summary
    from danlu.train.optim import describe
    from danlu.train.reference import compare

    history, spent = fitted.history, fitted.spent
    verdict = compare(reference, history.final_validation, spent.tokens, facts)
    band = None if verdict.low is None or verdict.high is None else (verdict.low, verdict.high)
    result = {
        "steps": spent.steps,
        "tokens": spent.tokens,
        "loss": history.final_loss,
        "validation_loss": history.final_validation,
        "parameters": facts["parameters"],
        "reference": verdict.verdict,
    }
    write_json(
        run.out / "report.json",
        {
            **result,
            **facts,
            **extra,
            "flops": spent.flops,
            "reference": verdict.to_json(),
            "optimizer": describe(optimizer),
            "optimizer_flops_per_step": optimizer.flops,
            "optimizer_share_of_flops": optimizer.flops * spent.steps / max(spent.flops, 1.0),
            "best_validation": history.best_validation,
            "curve": thin(history.steps, 1000),
            "validation_curve": history.validation,
        },
    )
    title = f"{facts['parameters'] / 1e6:.2f}M parameters, {spent.tokens / 1e6:.2f}M tokens"
    svg = loss_curve(history.steps, history.validation, title=title, band=band)
    (run.out / "loss.svg").write_text(svg, encoding="utf-8")
    return {**result, **summary(fitted, peak)}
