"""The stage `evaluate.compare`: a model before and after a change that should not hurt.

    before: model, after: model, corpus  --->  report.json, report.md

Three questions: how much smaller is it, how many bits per byte did that cost on held-out text, and is it faster. Sizes
and bits are in the payload. Speeds are not, since a payload must be the same on every machine: they are metrics
of the manifest (`danlu show`).

The cost is measured in pairs, document by document on the same windows, so that its interval is that of the change and
not of the text: with d_i = bits after - bits before of document i, change = sum d_i / sum bits before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from danlu.core.artifact import Artifact, atomic_write, write_json
from danlu.core.stage import StageConfig, StageRun, stage

if TYPE_CHECKING:
    from danlu.evaluate.perplexity import TextScore


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
    from danlu.engine import Engine
    from danlu.evaluate import samples
    from danlu.evaluate.perplexity import score_texts
    from danlu.evaluate.speed import speeds
    from danlu.evaluate.tasks import load_judged, trained_context

    texts = [document.text for document in samples.held_out(corpus, config.max_bytes, config.seed)]
    context = config.context or trained_context(before)
    rows: dict[str, dict[str, Any]] = {}
    measured: dict[str, float] = {}
    nats: dict[str, list[float]] = {}
    for role, artifact in (("before", before), ("after", after)):
        model, tokenizer = load_judged(artifact)
        score = score_texts(
            model, tokenizer, texts, context=context, progress=lambda done, total: run.progress(done, total, "windows")
        )
        nats[role] = score.nats
        rows[role] = row_of(artifact, score, config.seed)
        engine = Engine((model, tokenizer), max_sequences=1, prefix_cache=False)
        measured |= {f"{role}_{key}": value for key, value in speeds(engine, config.speed_tokens).items()}
    change = {
        "smaller": 1 - rows["after"]["weight_bytes"] / rows["before"]["weight_bytes"],
        **paired_change(nats["before"], nats["after"], config.seed),
        "documents": len(texts),
        "bytes": sum(len(text.encode("utf-8", "replace")) for text in texts),
    }
    if not change["bits_per_byte_change"] <= config.tolerance:
        lost = f"{change['bits_per_byte_change']:.1%} more bits per byte after the change"
        run.events.emit("warning", message=f"{lost} ({config.tolerance:.0%} is allowed)")
    write_json(run.out / "report.json", {"before": rows["before"], "after": rows["after"], **change})
    atomic_write(run.out / "report.md", markdown(rows, change).encode())
    named = {f"{role}_{key}": row[key] for role, row in rows.items() for key in ("weight_bytes", "bits_per_byte")}
    return named | change | measured


def row_of(artifact: Artifact, score: TextScore, seed: int) -> dict[str, Any]:
    """Size and bits of one model, with an interval over documents."""
    low, high = score.summary(seed)["interval"]
    return {
        "model": artifact.id,
        "weight_bytes": weight_bytes(artifact),
        "bits_per_byte": score.bits_per_byte,
        "interval_low": low,
        "interval_high": high,
        "perplexity": score.perplexity,
    }


def paired_change(before: list[float], after: list[float], seed: int) -> dict[str, float]:
    """What share of bits a change cost; the interval is that of the change. Nats of the same documents, in order."""
    from danlu.evaluate.statistics import bootstrap_ratio

    difference = [a - b for a, b in zip(after, before, strict=True)]
    low, high = bootstrap_ratio(difference, before, seed=seed)
    return {
        "bits_per_byte_change": sum(difference) / max(sum(before), 1e-12),
        "change_low": low,
        "change_high": high,
    }


def weight_bytes(model: Artifact) -> int:
    """Size of the weight files: a directory's safetensors, or the one GGUF file."""
    if model.path.is_file():
        return model.path.stat().st_size
    return sum(file.stat().st_size for file in model.path.glob("*.safetensors"))


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
