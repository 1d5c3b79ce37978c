"""Measure the band of losses that runs of a recipe's training stage end in, and write it into recipes/bands.json.

    python bench/bands.py --tokens TOKENS_ARTIFACT --name quickstart.base --set model=pico --at 400000 --at 1600000

For each number of tokens the stage is run from scratch with several seeds, as ``train.pretrain`` runs it in a recipe;
a point of the band is the lowest and the highest final validation loss. Nothing else writes that file: a band is what
happened, not what should have. Rerunning adds or replaces the points named with --at and keeps the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from danlu.core.artifact import Artifact, write_json
from danlu.core.run import machine_name
from danlu.core.stage import StageRun
from danlu.train.pretrain import PretrainConfig, pretrain
from danlu.train.reference import read_bands

BANDS = Path(__file__).parents[1] / "danlu" / "recipes" / "bands.json"
RESULTS = Path(__file__).parent / "results"


def measure(tokens: Artifact, settings: dict[str, Any], amount: int, seeds: list[int]) -> list[dict[str, Any]]:
    """Final reports of one run a seed, each planned to end at ``amount`` tokens."""
    reports = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = StageRun.for_test(Path(folder))
            config = PretrainConfig(**{**settings, "budget": f"{amount} tokens", "seed": seed})
            metrics = pretrain(config, run, tokens)
            report = json.loads((run.out / "report.json").read_text(encoding="utf-8"))
        print(f"{amount:,} tokens, seed {seed}: validation loss {report['validation_loss']:.4f}", flush=True)
        reports.append({**report, "seed": seed, "metrics": metrics})
    return reports


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", required=True, type=Path, help="directory of a tokens artifact")
    parser.add_argument("--name", required=True, help="the name that the recipe gives in `reference:`")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="config of train.pretrain")
    parser.add_argument("--at", action="append", required=True, type=int, help="tokens at which runs end")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--margin", type=float, default=0.02, help="share of the loss by which the band is widened")
    args = parser.parse_args()

    settings = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in args.set)}
    tokens = Artifact.from_path(args.tokens, "tokens")
    bands = read_bands()
    entry = bands.setdefault(args.name, {"points": []})
    runs = []
    for amount in sorted(args.at):
        reports = measure(tokens, settings, amount, list(range(args.seeds)))
        losses = [report["validation_loss"] for report in reports]
        point = {
            "tokens": round(sum(report["tokens"] for report in reports) / len(reports)),
            "low": round(min(losses), 4),
            "high": round(max(losses), 4),
            "runs": len(losses),
        }
        kept = [p for p in entry["points"] if abs(p["tokens"] - point["tokens"]) > 0.05 * point["tokens"]]
        entry["points"] = sorted([*kept, point], key=lambda p: p["tokens"])
        entry["model"] = {key: reports[0][key] for key in ("vocab_size", "parameters", "context")}
        entry["margin"] = args.margin
        runs += [
            {"tokens": r["tokens"], "seed": r["seed"], "validation_loss": r["validation_loss"], **r["metrics"]}
            for r in reports
        ]
    write_json(BANDS, bands)
    RESULTS.mkdir(exist_ok=True)
    write_json(
        RESULTS / f"bands-{args.name}.json",
        {"name": args.name, "settings": settings, "machine": machine_name(), "runs": runs},
    )


if __name__ == "__main__":
    main()
