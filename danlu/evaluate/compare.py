"""The stage `evaluate.compare`: a model before and after a change that should not hurt.

    before: model, after: model, corpus  --->  report.json, report.md

Three questions: how much smaller is it, how many bits per byte did that cost on held-out text, and is it faster. Sizes
and bits are in the payload. Speeds are not, since a payload must be the same on every machine: they are metrics
of the manifest (`danlu show`).

The cost is measured in pairs, document by document on the same windows, so that its interval is that of the change and
not of the text: with d_i = bits after - bits before of document i, change = sum d_i / sum bits before.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from pydantic import Field

from danlu.core.artifact import Artifact, atomic_write, write_json
from danlu.core.stage import StageConfig, StageRun, stage

if TYPE_CHECKING:
    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer


class CompareConfig(StageConfig):
    max_bytes: int = Field(default=100_000, ge=1)  # of held-out text, in whole documents; pairs need little
    context: int | None = Field(default=None, ge=2)  # positions per window; None: as in the training of `before`
    tolerance: float = Field(default=0.02, ge=0)  # a larger share of bits lost is a warning
    speed_tokens: int = Field(default=64, ge=8)  # generated to measure speed
    seed: int = 0


@stage("evaluate.compare", makes="report", takes={"before": "model", "after": "model", "corpus": "corpus"})
def compare(
    config: CompareConfig, run: StageRun, before: Artifact, after: Artifact, corpus: Artifact
) -> dict[str, Any]:
    """Size, bits per byte and speed of a model before and after a change."""
    from danlu.evaluate import samples
    from danlu.evaluate.perplexity import score_texts
    from danlu.evaluate.statistics import bootstrap_ratio
    from danlu.evaluate.tasks import load_judged, trained_context

    texts = [document.text for document in samples.held_out(corpus, config.max_bytes, config.seed)]
    context = config.context or trained_context(before)
    rows: dict[str, dict[str, Any]] = {}
    speeds: dict[str, float] = {}
    nats: dict[str, list[float]] = {}
    for role, artifact in (("before", before), ("after", after)):
        model, tokenizer = load_judged(artifact)
        score = score_texts(
            model, tokenizer, texts, context=context, progress=lambda done, total: run.progress(done, total, "windows")
        )
        nats[role] = score.nats
        low, high = score.summary(config.seed)["interval"]
        rows[role] = {
            "model": artifact.id,
            "weight_bytes": weight_bytes(artifact),
            "bits_per_byte": score.bits_per_byte,
            "interval_low": low,
            "interval_high": high,
            "perplexity": score.perplexity,
        }
        speeds |= {f"{role}_{key}": value for key, value in speed(model, tokenizer, config.speed_tokens).items()}
    difference = [a - b for a, b in zip(nats["after"], nats["before"], strict=True)]
    low, high = bootstrap_ratio(difference, nats["before"], seed=config.seed)
    change = {
        "smaller": 1 - rows["after"]["weight_bytes"] / rows["before"]["weight_bytes"],
        "bits_per_byte_change": sum(difference) / max(sum(nats["before"]), 1e-12),
        "change_low": low,
        "change_high": high,
        "documents": len(texts),
        "bytes": sum(len(text.encode("utf-8", "replace")) for text in texts),
    }
    if not change["bits_per_byte_change"] <= config.tolerance:
        lost = f"{change['bits_per_byte_change']:.1%} more bits per byte after the change"
        run.events.emit("warning", message=f"{lost} ({config.tolerance:.0%} is allowed)")
    write_json(run.out / "report.json", {"before": rows["before"], "after": rows["after"], **change})
    atomic_write(run.out / "report.md", markdown(rows, change).encode())
    named = {f"{role}_{key}": row[key] for role, row in rows.items() for key in ("weight_bytes", "bits_per_byte")}
    return named | change | speeds


def weight_bytes(model: Artifact) -> int:
    """Size of the weight files: a directory's safetensors, or the one GGUF file."""
    if model.path.is_file():
        return model.path.stat().st_size
    return sum(file.stat().st_size for file in model.path.glob("*.safetensors"))


def speed(model: Transformer, tokenizer: Tokenizer, tokens: int) -> dict[str, float]:
    """Tokens per second of one sequence, decoding and reading; the best of three, for the machine is not ours alone."""
    import torch

    from danlu.engine import Engine, Sampling

    length = max(2, min(256, model.config.max_position - tokens - 1))
    prompt = [number % min(256, tokenizer.vocab_size) for number in range(length)]
    engine = Engine((model, tokenizer), max_sequences=1)

    def seconds(new_tokens: int) -> float:
        begin = time.perf_counter()
        list(engine.generate([prompt], Sampling(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    seconds(2)
    reading = min(seconds(1) for _ in range(3))
    decoding = min(seconds(tokens) for _ in range(3)) - reading
    return {
        "prefill_tokens_per_second": length / reading,
        "decode_tokens_per_second": (tokens - 1) / decoding if decoding > 0 else math.nan,
    }


def markdown(rows: dict[str, dict[str, Any]], change: dict[str, Any]) -> str:
    """The comparison as a table."""
    lines = [
        f"# {rows['before']['model']} and {rows['after']['model']}",
        "",
        f"n = {change['documents']} held-out documents, {change['bytes']:,} bytes.",
        "",
        "| | weights, bytes | bits per byte | perplexity |",
        "|---|---|---|---|",
    ]
    for role, row in rows.items():
        bits = f"{row['bits_per_byte']:.4f} ({row['interval_low']:.3f} to {row['interval_high']:.3f})"
        lines.append(f"| {role} | {row['weight_bytes']:,} | {bits} | {row['perplexity']:.3f} |")
    low, high = change["change_low"], change["change_high"]
    lines.append(
        f"| change | {-change['smaller']:+.1%} | {change['bits_per_byte_change']:+.2%} ({low:+.2%} to {high:+.2%}) | |"
    )
    return "\n".join(lines) + "\n"
