"""The stage ``posttrain.sft``: a model and conversations in, a model that answers out.

    row {"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}
      -> ids and mask           through the model's own chat template, the one the server uses
      -> cut or set aside       too long for the context, or nothing of the assistant left: counted, never silent
      -> packed rows [B, T]     several conversations a row, no cross-talk (packing.py)
      -> the training room's loop, with the loss on what the assistant says

The step is made of whole rows. Rows hold different numbers of counted tokens, and the loop weighs each token alike.

``truncate`` says what happens to a conversation that is longer than the context:

    "drop_turns"   whole turns are taken from its end until it fits (an answer is never cut in the middle); if not even
                   the first exchange fits it is set aside
    "reject"       it is set aside

Cutting an answer in the middle, the common default elsewhere, teaches a model to stop in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from danlu.core.artifact import Artifact, Manifest
from danlu.core.budget import Budget
from danlu.core.errors import UserError
from danlu.core.stage import Estimate, StageRun, stage
from danlu.train.training import TrainingConfig, choose_dtype, rows_that_fit, train_model

if TYPE_CHECKING:
    from danlu.model.transformer import Transformer
    from danlu.posttrain.packing import Sample
    from danlu.tokenizer.tokenizer import Tokenizer

DEFAULT_LEARNING_RATE = {"muon": 1e-3, "adamw": 3e-4}


class SftConfig(TrainingConfig):
    budget: Budget = Budget("seconds", 60)
    context: int | None = Field(default=None, ge=8)  # row length; None: the model's own, at most 1024. A longer one
    # than the model's teaches it the new positions, where they are rotary
    batch_rows: int = Field(default=16, ge=1)  # packed rows in one step
    truncate: Literal["drop_turns", "reject"] = "drop_turns"
    warmup: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    validation_rows: int = Field(default=64, ge=1)  # packed rows looked at each time
    sample_prompts: list[str] = []  # user messages; each is answered now and then while it trains


def estimate(config: SftConfig, parents: Mapping[str, Manifest | None]) -> Estimate:
    model = parents.get("model")
    parameters = (model.metrics.get("parameters") if model is not None else None) or 0
    return Estimate(
        seconds=config.budget.amount if config.budget.kind == "seconds" else None,
        memory_bytes=16.0 * parameters + 1e9 if parameters else None,
        disk_bytes=28.0 * parameters if parameters else None,
    )


@stage("posttrain.sft", makes="model", takes={"model": "model", "dataset": "dataset"}, estimate=estimate)
def sft(config: SftConfig, run: StageRun, model: Artifact, dataset: Artifact) -> dict[str, Any]:
    """Fine-tune a model on conversations, with the loss on the assistant's tokens only.

    Raises UserError when the model has no chat template or no row is usable, StageFailed when the loss is not finite,
    Interrupted after Ctrl-C.
    """
    import torch

    from danlu.core.device import probe, torch_device
    from danlu.data.dataset import read_rows
    from danlu.model.hub import load
    from danlu.model.quantized import is_quantized
    from danlu.posttrain.packing import PackedSource, collate, pack
    from danlu.train.loop import mean_loss

    device, machine = torch_device(), probe()
    dtype, peak = choose_dtype(config, machine)
    network, tokenizer = load(model.path)
    if tokenizer is None or tokenizer.chat_template is None:
        raise UserError(
            f"{model.path} has no chat template", "add one to its tokenizer_config.json, or train a tokenizer with one"
        )
    if is_quantized(network):
        raise UserError(f"{model.path} is quantised and cannot be trained", "fine-tune the model it was made from")
    network = network.to(device=device, dtype=torch.float32)  # trained in float32, whatever it was stored in
    context = _context(config, network)

    train, counts = make_samples(read_rows(dataset, "train"), tokenizer, context, config.truncate, run)
    if not train:
        raise UserError(
            f"none of the {counts['rows']:,} rows can be trained on ({describe_counts(counts)})", "look at the dataset"
        )
    held_out: list[Sample] = []
    if any(dataset.path.glob("validation-*.parquet")):
        held_out, _ = make_samples(read_rows(dataset, "validation"), tokenizer, context, config.truncate, run)
    micro_rows = config.micro_batch or rows_that_fit(machine, network.config, context)
    source = PackedSource(train, context, config.batch_rows, micro_rows, config.seed)
    run.events.emit("derived", text=f"{counts['used']:,} rows packed into {len(source.rows):,} of {context:,} tokens")
    if counts["used"] < counts["rows"]:
        run.events.emit(
            "warning", message=f"{counts['rows'] - counts['used']:,} rows are not used: {describe_counts(counts)}"
        )

    rate = config.learning_rate or DEFAULT_LEARNING_RATE[config.optimizer]
    torch.manual_seed(config.seed)
    checks = [[held_out[i] for i in row] for row in pack([len(s.ids) for s in held_out], context)]
    checks = checks[: config.validation_rows]

    def validate() -> float:
        step = source.micro_rows
        micros = (collate(checks[i : i + step], context) for i in range(0, len(checks), step))
        return mean_loss(network, micros, dtype)[0]

    def sample() -> list[str]:
        return answers(network, tokenizer, config, context, dtype)

    def extra() -> dict[str, Any]:
        return {
            "rows": counts,
            "packed_rows": len(source.rows),
            "packed_share": round(sum(len(s.ids) for s in train) / (len(source.rows) * context), 4),
            "epochs": round(source.position / len(source.rows), 4),
        }

    metrics = train_model(
        network, tokenizer, source, config, run,
        learning_rate=rate, context=context, dtype=dtype, peak_flops=peak,
        validate=validate if checks else None, sample=sample if config.sample_prompts else None, extra=extra,
    )  # fmt: skip
    return {**metrics, "rows": counts["rows"], "rows_used": counts["used"]}


def _context(config: SftConfig, network: Transformer) -> int:
    """The row length; a model with rotary positions grows to it. Raises UserError for learned positions."""
    own = network.config.max_position
    if config.context is None or config.context <= own:
        return min(config.context or 1024, own)
    if network.config.positions != "rope":
        raise UserError(f"context {config.context} is longer than the model's {own} learned positions")
    network.config = network.config.model_copy(update={"max_position": config.context})
    return config.context


def make_samples(
    rows: Any, tokenizer: Tokenizer, context: int, truncate: str, run: StageRun
) -> tuple[list[Sample], dict[str, int]]:
    """Samples of all usable rows, and how many rows went which way.

    counts: rows = used + too_long + no_answer + bad_messages; shortened (among used): turns were dropped.
    """
    samples: list[Sample] = []
    counts = {"rows": 0, "used": 0, "shortened": 0, "too_long": 0, "no_answer": 0, "bad_messages": 0}
    for row in rows:
        counts["rows"] += 1
        sample, outcome = make_sample(list(row.messages), tokenizer, context, truncate)
        counts[outcome] += 1
        if sample is not None:
            samples.append(sample)
            counts["used"] += outcome != "used"
        run.progress(counts["rows"], None, "rows")
    return samples, counts


def make_sample(
    messages: Sequence[Any], tokenizer: Tokenizer, context: int, truncate: str
) -> tuple[Sample | None, str]:
    """One conversation as a sample, and what became of it ("used", "shortened" or why it was set aside)."""
    from danlu.posttrain.packing import Sample

    kept = [{"role": m["role"], "content": m["content"]} for m in messages]
    while kept and any(m["role"] == "assistant" for m in kept):
        try:
            ids, mask = tokenizer.encode_chat_with_mask(kept)
        except UserError:  # the template refuses these roles or this order
            return None, "bad_messages"
        sample = Sample(ids, mask)
        if len(ids) <= context:
            if not sample.targets:
                return None, "no_answer"
            return sample, "used" if len(kept) == len(messages) else "shortened"
        if truncate == "reject":
            return None, "too_long"
        # drop the last exchange: back to the assistant turn before
        kept = kept[:-1]
        while kept and kept[-1]["role"] != "assistant":
            kept = kept[:-1]
    return None, "no_answer" if len(kept) == len(messages) else "too_long"


def answers(network: Any, tokenizer: Tokenizer, config: SftConfig, context: int, dtype: Any) -> list[str]:
    """What the model answers to each of the sample prompts, as the server would ask it."""
    from danlu.train.sample import continue_ids

    texts = []
    for i, prompt in enumerate(config.sample_prompts):
        ids = tokenizer.encode_chat([{"role": "user", "content": prompt}], add_generation_prompt=True)
        new = continue_ids(
            network, ids, length=config.sample_tokens, context=context, stop=tokenizer.stop_ids,
            temperature=0.7, seed=config.seed + i, dtype=dtype,
        )  # fmt: skip
        texts.append(f"{prompt} -> {tokenizer.decode(new, skip_special=True)}")
    return texts


def describe_counts(counts: Mapping[str, int]) -> str:
    """ "12 too long, 3 without an answer" """
    words = {"too_long": "too long", "no_answer": "without an answer", "bad_messages": "refused by the chat template"}
    return ", ".join(f"{counts[key]:,} {text}" for key, text in words.items() if counts[key])
