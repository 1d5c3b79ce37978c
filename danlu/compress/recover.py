"""The stage `compress.recover`: what pruning took from a model, trained back.

    pruned model + tokens  --->  model: the same shape and the same zeros, other numbers

The loop is that of `train.pretrain`, on tokens packed with this model's tokenizer. What is 0 in the matrices of the
blocks when training begins stays 0 (`keep_zeros`): its gradient is struck out, and after each step it is 0 again, since
an optimiser that mixes the entries of a matrix, as Muon does, moves those without a gradient too. A model that lost
channels, heads or layers has no zeros to keep and is simply trained on; so is one of low rank, factor by factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from danlu.core.artifact import Artifact, Manifest
from danlu.core.budget import Budget
from danlu.core.errors import UserError
from danlu.core.stage import Estimate, StageRun, stage
from danlu.train.training import TrainingConfig, choose_dtype, rows_that_fit, train_model

DEFAULT_LEARNING_RATE = {"muon": 3e-4, "adamw": 1e-4}  # a tenth of what models are trained with: most is right already


class RecoverConfig(TrainingConfig):
    budget: Budget = Budget("seconds", 300)
    context: int | None = Field(default=None, ge=8)  # None: the model's longest, at most 512
    batch_tokens: int = Field(default=8192, ge=2)
    keep_zeros: bool = True  # False for a model whose zeros are an accident: rounded ones, as from a GGUF file
    weight_decay: float = Field(default=0.0, ge=0)
    validation_tokens: int = Field(default=16384, ge=1)  # at most so many are looked at each time
    sample_prompts: list[str] = []


def estimate(config: RecoverConfig, parents: Mapping[str, Manifest | None]) -> Estimate:
    """Memory: 17 bytes a parameter (weight, gradient, two moments, whether it is 0)."""
    model = parents.get("model")
    parameters = (model.metrics.get("parameters") if model is not None else None) or 0
    return Estimate(
        seconds=config.budget.amount if config.budget.kind == "seconds" else None,
        memory_bytes=17.0 * parameters + 1e9 if parameters else None,
        disk_bytes=28.0 * parameters if parameters else None,
    )


@stage("compress.recover", makes="model", takes={"model": "model", "tokens": "tokens"}, estimate=estimate)
def recover(config: RecoverConfig, run: StageRun, model: Artifact, tokens: Artifact) -> dict[str, Any]:
    """Train a pruned model on, its zeros kept.

    Raises UserError when the tokens are another tokenizer's or the model is quantised, StageFailed when the loss is not
    finite, Interrupted after Ctrl-C.
    """
    import torch

    from danlu.compress.prune.pruner import share_of_zeros
    from danlu.core.device import probe, torch_device
    from danlu.model.hub import load
    from danlu.model.quantized import is_quantized
    from danlu.tokenizer.shards import TokenShards
    from danlu.train.batches import Batches
    from danlu.train.pretrain import WindowSource, held_out_loss
    from danlu.train.sample import sample_texts

    network, tokenizer = load(model.path)
    if is_quantized(network):
        raise UserError(f"{model.id} is quantised and cannot be trained", "recover the model it was made from")
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
        keep_zeros=config.keep_zeros,
    )  # fmt: skip
    return {**metrics, "zeros": share_of_zeros(network)}
