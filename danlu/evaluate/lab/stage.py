"""The stage `evaluate.lab`.

Quality is judged as in `evaluate.compare`: bits per byte on the same held-out documents, the change in pairs. Beside it
the next token: how often the model's first choice is the text's (accuracy), and how often it is the original's
(agreement; only where both have the same tokens). Bits per weight are of the original's weights, embeddings included:
what was pruned away counts as 0 bits. Speeds are of this machine at this time. That is what a person wants to see
beside the sizes, so unlike other payloads these files hold a clock, and a second run writes other numbers (decision
25).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from danlu.core.artifact import Artifact, atomic_write, write_json
from danlu.core.errors import UserError
from danlu.core.stage import StageConfig, StageRun, stage

if TYPE_CHECKING:
    from torch import Tensor

    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer

FEW = 5  # documents, below which a bootstrap over them says little


class LabConfig(StageConfig):
    max_bytes: int = Field(default=50_000, ge=1)  # of held-out text, in whole documents
    context: int | None = Field(default=512, ge=2)  # positions per window; None: as in training
    loss: float = Field(default=0.03, ge=0)  # of bits per byte that advice allows
    speed_tokens: int = Field(default=64, ge=8)  # of each answer that is timed
    requests: int = Field(default=8, ge=2)  # that are answered at once
    rounds: int = Field(default=3, ge=1)  # of timing, through all rows; the best counts
    seed: int = 0


def check(config: LabConfig, inputs: Mapping[str, Artifact]) -> None:
    """Raises UserError for a corpus without held-out documents, before the candidates are made."""
    from danlu.evaluate.samples import require_held_out

    if "corpus" in inputs:
        require_held_out(inputs["corpus"])


@stage(
    "evaluate.lab",
    version="2",
    makes="report",
    takes={"model": "model", "corpus": "corpus", "candidates*": "model"},
    check=check,
)
def lab(
    config: LabConfig, run: StageRun, model: Artifact, corpus: Artifact, candidates: dict[str, Artifact]
) -> dict[str, Any]:
    """Size, quality, speed and memory of a model and of what compression made of it."""
    from danlu.evaluate import samples
    from danlu.evaluate.compare import paired_change, row_of
    from danlu.evaluate.lab.advice import advise, front, size
    from danlu.evaluate.lab.page import markdown, page
    from danlu.evaluate.lab.picture import picture
    from danlu.evaluate.perplexity import score_texts
    from danlu.evaluate.speed import in_processes
    from danlu.evaluate.statistics import share
    from danlu.evaluate.tasks import load_judged, trained_context

    texts = [document.text for document in samples.held_out(corpus, config.max_bytes, config.seed)]
    if len(texts) < FEW:
        few = f"only {len(texts)} held-out documents: intervals of so few say little"
        run.events.emit("warning", message=f"{few}; a larger max_bytes takes more, if the corpus has them")
    context = config.context or trained_context(model)
    if "original" in candidates:
        raise UserError('a candidate cannot be called "original"', "that is the model: candidates: {NAME: ...}")
    everyone = {"original": model} | candidates
    rows: list[dict[str, Any]] = []
    nats: list[float] = []
    choices: Tensor | None = None
    weights, vocabulary = 0, 0
    for number, (name, artifact) in enumerate(everyone.items()):
        loaded, tokenizer = load_judged(artifact)
        score = score_texts(loaded, tokenizer, texts, context=context)
        own, right, seen = first_choices(loaded, tokenizer, texts, context or loaded.config.max_position)
        if not number:
            nats, choices, weights, vocabulary = score.nats, own, loaded.n_params, loaded.config.vocab_size
        row = {"name": name, **row_of(artifact, score, config.seed), **paired_change(nats, score.nats, config.seed)}
        row["bits_per_weight"] = 8 * row["weight_bytes"] / weights
        row["smaller_than_float32"] = 1 - row["weight_bytes"] / (4 * weights)
        row["accuracy"] = share(right, seen)
        if choices is not None and loaded.config.vocab_size == vocabulary:
            row["agreement"] = share(int((own == choices).sum()), seen)
        row["how"] = how(artifact) if number else ""
        row["seconds_to_make"] = artifact.manifest.seconds if number else None
        rows.append(row)
        del loaded
        run.progress(number + 1, len(everyone), "models")
    rows[1:] = sorted(rows[1:], key=lambda row: (-row["weight_bytes"], row["bits_per_byte"]))
    rows.insert(1, small_cache(rows[0], model, texts, context, config.seed))
    times = in_processes(
        {row["name"]: (everyone.get(row["name"], model).path, row.get("kv_dtype", "")) for row in rows},
        config.speed_tokens, config.requests,
        times=config.rounds, progress=lambda done, total: run.progress(done, total, "timings"),
    )  # fmt: skip
    on_front = front(rows, size)
    for row in rows:
        row |= {**times[row["name"]], "front": row in on_front}
    advice = advise(rows, config.loss)
    report = {
        "model": model.id,
        "model_name": model.manifest.name,
        "corpus": corpus.id,
        "documents": len(texts),
        "bytes": sum(len(text.encode("utf-8", "replace")) for text in texts),
        "context": context,
        "requests": config.requests,
        "rounds": config.rounds,
        "rows": rows,
        "advice": advice,
    }
    write_json(run.out / "report.json", report)
    drawn = picture(rows)
    atomic_write(run.out / "picture.svg", drawn.encode())
    atomic_write(run.out / "report.md", markdown(report).encode())
    atomic_write(run.out / "report.html", page(report, drawn).encode())
    return {
        **{use: one["choice"] for use, one in advice.items()},
        "candidates": len(candidates),
        "on_the_front": sum(row["front"] for row in rows),
        **{f"{row['name']}_bits_per_byte": row["bits_per_byte"] for row in rows},
    }


def how(artifact: Artifact) -> str:
    """What was done to make a candidate, from its manifest; "" for a model from elsewhere."""
    config, metrics = artifact.manifest.config, artifact.manifest.metrics
    parts = [config.get("method") or artifact.manifest.stage.rpartition(".")[2]]
    if bits := config.get("bits"):
        parts.append(f"{bits} bits")
    if group := metrics.get("group", config.get("group")):
        parts.append({"row": "a scale a row", "mixed": "schemes mixed"}.get(group, f"groups of {group}"))
    if metrics.get("symmetric") is False:
        parts.append("zero points")
    if config.get("budget") and "method" in config:
        parts.append(f"{config['budget']:g} bits a weight in all")
    if share := metrics.get("share"):
        parts.append(f"{share:.0%} gone")
    if pattern := config.get("pattern"):
        parts.append(pattern)
    if "rows_before" in metrics:
        parts.append(f"{metrics['rows']:,} of {metrics['rows_before']:,} tokens kept")
    return ", ".join(parts)


def small_cache(
    original: dict[str, Any], artifact: Artifact, texts: list[str], context: int | None, seed: int
) -> dict[str, Any]:
    """The original with keys and values in 8 bits: the row of the original, with what that costs."""
    from danlu.engine import Engine
    from danlu.evaluate.compare import paired_change

    nats: dict[str | None, list[float]] = {}
    for kv_dtype in (None, "int8"):
        engine = Engine(artifact.path, kv_dtype=kv_dtype, prefix_cache=False)
        length = min(context or engine.max_context, engine.max_context)
        nats[kv_dtype] = []
        for text in texts:
            ids = engine.encode(text)
            pieces = [piece for at in range(0, len(ids), length) if len(piece := ids[at : at + length]) > 1]
            nats[kv_dtype].append(-sum(one.logprob for found in engine.score(pieces) for one in found))
    change = paired_change(nats[None], nats["int8"], seed)
    kept = {key: original[key] for key in ("model", "weight_bytes", "bits_per_weight", "smaller_than_float32")}
    ratio = 1 + change["bits_per_byte_change"]
    return {
        "name": "original, int8 KV", **kept, **change, "kv_dtype": "int8", "seconds_to_make": None,
        "bits_per_byte": original["bits_per_byte"] * ratio, "perplexity": original["perplexity"] ** ratio,
    }  # fmt: skip


def first_choices(model: Transformer, tokenizer: Tokenizer, texts: list[str], length: int) -> tuple[Tensor, int, int]:
    """The likeliest next token at every place of the texts, how many of them stand there, and how many there are.

    Every window of `length` tokens begins anew.
    """
    import torch

    found, right = [], 0
    device = next(model.parameters()).device
    with torch.no_grad():
        for ids in tokenizer.encode_batch(texts):
            for begin in range(0, len(ids) - 1, length):
                window = torch.tensor(ids[begin : begin + length + 1], device=device)
                if len(window) < 2:
                    continue
                best = model(window[None, :-1])[0].argmax(dim=-1)
                right += int((best == window[1:]).sum())
                found.append(best.cpu())
    choices = torch.cat(found) if found else torch.empty(0, dtype=torch.long)
    return choices, right, len(choices)
