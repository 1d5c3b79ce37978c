"""The stage ``train.pretrain``: token shards in, a model directory out.

    tokens (shards + tokenizer)  --->  model: config.json, model.safetensors, the tokenizer, report.json, loss.svg

It only puts the room's parts together: what each does is in its own file. What the recipe does not say is derived,
and each derived number is an event and a line of ``report.json``. With a budget in steps, tokens or FLOPs the payload
is a function of the inputs, to the bit on one machine; with a wall clock it is not, since how far a minute goes
depends on the machine and on what else runs there. Speeds and times are metrics of the
manifest and never part of the payload.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from danlu.core.artifact import Artifact, Manifest
from danlu.core.errors import UserError
from danlu.core.stage import Estimate, StageRun, stage
from danlu.train.training import TrainingConfig, choose_dtype, rows_that_fit, train_model

if TYPE_CHECKING:
    import torch

    from danlu.model.config import ModelConfig
    from danlu.train.batches import Batches
    from danlu.train.loop import Micro

DEFAULT_CONTEXT = 256
DEFAULT_BATCH_TOKENS = 8192
DEFAULT_LEARNING_RATE = {"muon": 6e-3, "adamw": 2e-3}
MUON_FACTOR = 1.5  # on the learning rate that was fitted for AdamW; not tuned


class PretrainConfig(TrainingConfig):
    model: str | dict[str, Any] = "nano"  # a preset, a mapping of shapes, or "auto": derived from the budget
    context: int = Field(default=DEFAULT_CONTEXT, ge=2)
    batch_tokens: int | None = Field(default=None, ge=2)
    validation_tokens: int = Field(default=16384, ge=1)  # at most so many are looked at each time
    sample_prompts: list[str] = [""]

    @field_validator("model")
    @classmethod
    def _model_is_known(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        """A wrong preset or shape is found while the recipe is read; the vocabulary is not known yet."""
        if value != "auto":
            from danlu.model.presets import resolve_model

            try:
                resolve_model(value, 1)
            except UserError as error:
                raise ValueError(str(error).rstrip(".")) from None
        return value


def estimate(config: PretrainConfig, parents: Mapping[str, Manifest | None]) -> Estimate:
    """Time where the budget is a clock. Memory: 16 bytes a parameter (weight, gradient, two moments)."""
    from danlu.model.presets import resolve_model

    seconds = config.budget.amount if config.budget.kind == "seconds" else None
    tokens = parents.get("tokens")
    if config.model == "auto" or tokens is None:
        return Estimate(seconds=seconds)
    shape = resolve_model(config.model, int(tokens.metrics.get("vocab_size", 4096)))
    block = shape.hidden_size * (sum(shape.qkv_sizes) + shape.n_heads * shape.head_dim + 3 * shape.intermediate_size)
    parameters = shape.n_layers * block + shape.vocab_size * shape.hidden_size * (1 if shape.tie_embeddings else 2)
    return Estimate(seconds=seconds, memory_bytes=16.0 * parameters + 1e9, disk_bytes=28.0 * parameters)


@stage("train.pretrain", makes="model", takes={"tokens": "tokens"}, estimate=estimate)
def pretrain(config: PretrainConfig, run: StageRun, tokens: Artifact) -> dict[str, Any]:
    """Train a language model from scratch on token shards.

    Raises UserError when the shards or the model's shape are wrong, StageFailed when the loss is not finite and
    Interrupted after Ctrl-C; the last two leave their state in ``run.work``.
    """
    import torch

    from danlu.core.device import probe, torch_device
    from danlu.model.transformer import Transformer
    from danlu.tokenizer.shards import TokenShards
    from danlu.tokenizer.tokenizer import Tokenizer
    from danlu.train.batches import Batches
    from danlu.train.sample import sample_texts

    folder = tokens.path / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"{tokens.path} has no tokenizer/ beside its shards", "pack the corpus again with tokenizer.pack"
        )
    tokenizer = Tokenizer.load(folder)
    train_shards = TokenShards.open(tokens.path, "train", tokenizer=tokenizer.fingerprint)

    device, machine = torch_device(), probe()
    dtype, peak = choose_dtype(config, machine)
    shape, batch_tokens, learning_rate, derived = derive(config, tokenizer, len(train_shards), machine.peak_flops)
    for line in derived:
        run.events.emit("derived", text=line)

    torch.manual_seed(config.seed)  # initialised on the CPU, so that every device starts from the same weights
    model = Transformer(shape).to(device)
    batches = Batches([shard.tokens for shard in train_shards.shards], config.context, seed=config.seed)
    rows = max(1, round(batch_tokens / config.context))
    micro_rows = config.micro_batch or rows_that_fit(machine, shape, config.context)
    source = WindowSource(batches, rows, micro_rows)

    validate = held_out_loss(model, tokens, config.context, config.validation_tokens, micro_rows, dtype)

    def sample() -> list[str]:
        return sample_texts(
            model, tokenizer, config.sample_prompts, length=config.sample_tokens, context=config.context,
            seed=config.seed, dtype=dtype,
        )  # fmt: skip

    def extra() -> dict[str, Any]:
        return {"batch_tokens": rows * config.context, "epochs": round(batches.epoch, 4), "derived": derived}

    return train_model(
        model, tokenizer, source, config, run,
        learning_rate=learning_rate, context=config.context, dtype=dtype, peak_flops=peak,
        validate=validate, sample=sample if config.sample_prompts else None, extra=extra,
    )  # fmt: skip


def held_out_loss(
    model: Any, tokens: Artifact, context: int, limit: int, micro_rows: int, dtype: torch.dtype
) -> Callable[[], float] | None:
    """The mean loss on at most ``limit`` held-out tokens, the same ones at every look; None where there are none."""
    from danlu.tokenizer.shards import TokenShards
    from danlu.train.batches import Windows
    from danlu.train.loop import Micro, mean_loss

    held_out = TokenShards.open(tokens.path, "validation").shards if any(tokens.path.glob("validation-*.bin")) else []
    checks = Windows([shard.tokens for shard in held_out], context)
    looked_at = spread(len(checks), max(1, limit // context))

    def validate() -> float:
        starts = range(0, len(looked_at), micro_rows)
        micros = (Micro(*checks.rows(looked_at[i : i + micro_rows])) for i in starts)
        return mean_loss(model, micros, dtype)[0]

    return validate if looked_at else None


class WindowSource:
    """Steps of ``rows`` windows, cut into micro-batches of ``micro_rows``."""

    def __init__(self, batches: Batches, rows: int, micro_rows: int) -> None:
        self.batches, self.rows, self.micro_rows = batches, rows, micro_rows

    def next_step(self) -> list[Micro]:
        from danlu.train.loop import Micro

        counts = [min(self.micro_rows, self.rows - i) for i in range(0, self.rows, self.micro_rows)]
        return [Micro(*self.batches.next(count)) for count in counts]

    def cursor(self) -> dict[str, Any]:
        return self.batches.cursor()

    def resume(self, cursor: dict[str, Any]) -> None:
        self.batches.resume(cursor)


def derive(
    config: PretrainConfig, tokenizer: Any, available: int, peak_flops: float
) -> tuple[ModelConfig, int, float, list[str]]:
    """Model shape, batch in tokens, learning rate, and a line for each number that was not in the recipe."""
    from danlu.model.presets import resolve_model
    from danlu.train.scaling import batch_for, flops_of_budget, learning_rate_for, plan

    lines: list[str] = []
    spec, batch, rate = config.model, config.batch_tokens, config.learning_rate
    flops = flops_of_budget(config.budget.kind, config.budget.amount, peak_flops=peak_flops)
    if spec == "auto":
        if flops is None:
            raise UserError(
                f'model: auto cannot be derived from a budget of "{config.budget}"',
                'give a time, tokens or FLOPs ("3m", "20M tokens", "1e15 flops"), or name a model',
            )
        made = plan(flops, vocab_size=tokenizer.vocab_size, context=config.context, available_tokens=available)
        lines += made.steps
        spec, batch = made.model, batch or made.batch_tokens
    if batch is None:
        batch = DEFAULT_BATCH_TOKENS if flops is None else batch_for(flops, config.context)
        batch = max(batch, config.context)
        lines.append(f"batch_tokens {batch:,} ({_why(flops, 'B = 0.292 C^0.3271')})")
    if rate is None:
        factor = MUON_FACTOR if config.optimizer == "muon" else 1.0
        rate = DEFAULT_LEARNING_RATE[config.optimizer] if flops is None else round(learning_rate_for(flops) * factor, 6)
        lines.append(f"learning_rate {rate:g} ({_why(flops, f'lr = {factor:g} x 0.3118 C^-0.125')})")
    ids = {"bos_id": tokenizer.bos_id, "eos_ids": tuple(sorted(tokenizer.stop_ids)), "pad_id": tokenizer.pad_id}
    shape = resolve_model(spec, tokenizer.vocab_size)
    if config.context != shape.max_position and not (isinstance(config.model, dict) and "max_position" in config.model):
        shape = shape.model_copy(update={"max_position": config.context})  # no promise beyond what it has seen
        lines.append(f"max_position {config.context:,} (the context)")
    return shape.model_copy(update=ids), batch, rate, lines


def _why(flops: float | None, formula: str) -> str:
    return "default" if flops is None else f"{formula} for C = {flops:.2g} FLOPs"


def spread(total: int, limit: int) -> list[int]:
    """At most ``limit`` of range(total), evenly spaced: the same ones at every look."""
    return [i * total // min(total, limit) for i in range(min(total, limit))]
