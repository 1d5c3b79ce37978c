"""A finished model trained on, under a constraint: what `compress.recover` and `compress.qat` share.

The loop is that of `train.pretrain`, on tokens packed with this model's tokenizer. What the two differ in is the
constraint (danlu/train/constraint.py) and the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from danlu.core.artifact import Artifact, Manifest
from danlu.core.budget import Budget
from danlu.core.errors import UserError
from danlu.core.stage import Estimate, StageRun
from danlu.train.training import TrainingConfig, choose_dtype, rows_that_fit, train_model

if TYPE_CHECKING:
    from danlu.model.transformer import Transformer
    from danlu.train.constraint import Constraint
    from danlu.train.loop import Loss

DEFAULT_LEARNING_RATE = {"muon": 3e-4, "adamw": 1e-4}  # a tenth of what models are trained with: most is right already


class FurtherConfig(TrainingConfig):
    budget: Budget = Budget("seconds", 300)
    context: int | None = Field(default=None, ge=8)  # None: the model's longest, at most 512
    batch_tokens: int = Field(default=8192, ge=2)
    weight_decay: float = Field(default=0.0, ge=0)
    validation_tokens: int = Field(default=16384, ge=1)  # at most so many are looked at each time
    sample_prompts: list[str] = []


def estimate_with(bytes_each: float) -> Callable[[Any, Mapping[str, Manifest | None]], Estimate]:
    """The estimate of a stage that needs so many bytes a parameter in memory."""

    def estimate(config: FurtherConfig, parents: Mapping[str, Manifest | None]) -> Estimate:
        model = parents.get("model")
        parameters = (model.metrics.get("parameters") if model is not None else None) or 0
        return Estimate(
            seconds=config.budget.amount if config.budget.kind == "seconds" else None,
            memory_bytes=bytes_each * parameters + 1e9 if parameters else None,
            disk_bytes=28.0 * parameters if parameters else None,
        )

    return estimate


def train_further(
    config: FurtherConfig,
    run: StageRun,
    model: Artifact,
    tokens: Artifact,
    prepare: Callable[[Transformer], tuple[Constraint, Loss]],
) -> tuple[Transformer, dict[str, Any]]:
    """Train `model` on; the network as it was saved, and the metrics.

    prepare: from the network in float32, before anything has moved, to what holds while it is trained and what is
    minimised. Raises UserError when the tokens are another tokenizer's or the model is quantised, StageFailed when the
    loss is not finite, Interrupted after Ctrl-C.
    """
    import torch

    from danlu.core.device import probe, torch_device
    from danlu.model.hub import load
    from danlu.model.quantized import is_quantized
    from danlu.tokenizer.shards import TokenShards
    from danlu.train.batches import Batches
    from danlu.train.pretrain import WindowSource, held_out_loss
    from danlu.train.sample import sample_texts

    network, tokenizer = load(model.path)
    if is_quantized(network):
        raise UserError(f"{model.id} is quantised and cannot be trained", "train the model it was made from")
    if tokenizer is None:
        raise UserError(f"{model.id} carries no tokenizer", "import it together with its tokenizer")
    shards = TokenShards.open(tokens.path, "train", tokenizer=tokenizer.fingerprint).shards
    context = min(config.context or 512, network.config.max_position)

    device, machine = torch_device(), probe()
    dtype, peak = choose_dtype(config, machine)
    network = network.to(device=device, dtype=torch.float32)
    micro_rows = config.micro_batch or rows_that_fit(machine, network.config, context)
    batches = Batches([shard.tokens for shard in shards], context, seed=config.seed)
    rows = max(1, round(config.batch_tokens / context))
    torch.manual_seed(config.seed)
    constraint, loss = prepare(network)

    def sample() -> list[str]:
        return sample_texts(
            network, tokenizer, config.sample_prompts, length=config.sample_tokens, context=context, seed=config.seed,
            dtype=dtype,
        )  # fmt: skip

    metrics = train_model(
        network, tokenizer, WindowSource(batches, rows, micro_rows), config, run,
        learning_rate=config.learning_rate or DEFAULT_LEARNING_RATE[config.optimizer],
        context=context, dtype=dtype, peak_flops=peak,
        validate=held_out_loss(network, tokens, context, config.validation_tokens, micro_rows, dtype),
        sample=sample if config.sample_prompts else None,
        extra=lambda: {"batch_tokens": rows * context, "epochs": round(batches.epoch, 4)},
        constraint=constraint, loss=loss,
    )  # fmt: skip
    return network, metrics
