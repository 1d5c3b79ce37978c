"""What the quickstart's training settings are worth: each row changes one of them, all train for the same time.

    python bench/trials.py --tokens TOKENS_ARTIFACT          (a quickstart's; one minute a row)

The recipe trains by the clock, so the clock is what is held equal here: a setting that takes longer steps gets fewer of
them. Run it on an idle machine, and with several seeds before believing a small difference.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import contest

Polynomials = tuple[tuple[float, float, float], ...]
FIVE_EQUAL: Polynomials = ((3.4445, -4.7750, 2.0315),) * 5  # the iterations Muon was published with

TRIALS: dict[str, dict[str, Any]] = {
    "as in the recipe": {},
    "model nano, three times as large": {"model": "nano"},
    "batches of 1,024 tokens": {"batch_tokens": 1024},
    "batches of 4,096 tokens": {"batch_tokens": 4096},
    "learning rate 0.01": {"learning_rate": 0.01},
    "five equal Newton-Schulz iterations": {"polynomials": FIVE_EQUAL},
    "AdamW, learning rate 0.004": {"optimizer": "adamw", "learning_rate": 0.004},
}


def run(changes: dict[str, Any], seed: int, seconds: float, tokens: Path) -> dict[str, Any]:
    """The metrics of train.pretrain with the recipe's settings and these changes."""
    from danlu.core.artifact import Artifact
    from danlu.core.budget import Budget
    from danlu.core.recipe import load_recipe
    from danlu.core.stage import StageRun
    from danlu.train import optim
    from danlu.train.pretrain import PretrainConfig, pretrain

    keys = ("model", "batch_tokens", "learning_rate")
    recipe = load_recipe("quickstart").nodes["base"].config
    settings = {key: getattr(recipe, key) for key in keys} | changes
    usual = optim.NEWTON_SCHULZ
    optim.NEWTON_SCHULZ = settings.pop("polynomials", usual)
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = PretrainConfig(**settings, budget=Budget("seconds", seconds), seed=seed, sample_prompts=[])
            return pretrain(config, StageRun.for_test(Path(folder)), Artifact.from_path(tokens, "tokens"))
    finally:
        optim.NEWTON_SCHULZ = usual


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", required=True, type=Path, help="directory of a quickstart's tokens artifact")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()

    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in TRIALS}
    for seed in range(args.seeds):
        for name, changes in TRIALS.items():
            runs[name].append(run(changes, seed, args.seconds, args.tokens))
            last = runs[name][-1]
            print(
                f"{name:<38} loss {last['validation_loss']:.3f}  {last['tokens_per_second']:6,.0f} tokens/s", flush=True
            )
    rows = []
    for name, done in runs.items():
        loss, speed = (contest.spread([r[key] for r in done]) for key in ("validation_loss", "tokens_per_second"))
        rows.append({"name": name, "validation_loss": loss, "tokens_per_second": speed, "steps": done[0]["steps"]})
    result = {
        "what": f"validation loss of the quickstart's base model after {args.seconds:.0f} s of training",
        "seeds": args.seeds,
        "rows": rows,
    }
    print("wrote", contest.write_result("trials", result))


if __name__ == "__main__":
    main()
