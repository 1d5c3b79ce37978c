"""How well must Muon orthogonalise? The quickstart's model trained with several Newton-Schulz polynomials.

    python bench/muon.py --tokens TOKENS_ARTIFACT          (a quickstart's; a few minutes a run on one core)

Every run spends the same model FLOPs with the settings of the recipe, so the losses are comparable; what the iterations
cost beside that is the last column. Several seeds, because one says little.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import contest

Polynomials = tuple[tuple[float, float, float], ...]


def minimax(smallest: float, iterations: int) -> Polynomials:
    """Odd quintics nearest to 1 on [smallest, 1] and then on what the one before leaves (Remez exchange)."""
    import numpy as np

    made = []
    low, high = smallest, 1.0
    for _ in range(iterations):
        x = low + (high - low) * np.array([0, 0.25, 0.75, 1])
        for _ in range(60):
            a, b, c, error = np.linalg.solve(np.stack([x, x**3, x**5, [1, -1, 1, -1]], axis=1), np.ones(4))
            turns = np.roots([5 * c, 0, 3 * b, 0, a])
            x = np.array([low, *sorted(t.real for t in turns if low < t.real < high), high])
        made.append((float(a), float(b), float(c)))
        low, high = 1 - abs(float(error)), 1 + abs(float(error))
    return tuple(made)


VARIANTS: dict[str, tuple[str, Polynomials]] = {
    "5 equal iterations": ("muon", ((3.4445, -4.7750, 2.0315),) * 5),
    "4 minimax from 0.001": ("muon", minimax(0.001, 4)),
    "3 minimax from 0.001": ("muon", minimax(0.001, 3)),
    "3 minimax from 0.003": ("muon", minimax(0.003, 3)),
    "3 minimax from 0.01": ("muon", minimax(0.01, 3)),
    "AdamW instead": ("adamw", ()),
}


def run(variant: str, seed: int, flops: float, tokens: Path) -> tuple[float, float]:
    """Final validation loss, and the optimiser's share of the model's operations."""
    from danlu.core.artifact import Artifact
    from danlu.core.budget import Budget
    from danlu.core.stage import StageRun
    from danlu.train import optim
    from danlu.train.pretrain import PretrainConfig, pretrain

    name, polynomials = VARIANTS[variant]
    optim.NEWTON_SCHULZ = polynomials
    with tempfile.TemporaryDirectory() as folder:
        trial = StageRun.for_test(Path(folder))
        config = PretrainConfig(
            model="pico", batch_tokens=2048, optimizer=name, learning_rate=0.02 if name == "muon" else 0.004,
            budget=Budget("flops", flops), seed=seed, sample_prompts=[],
        )  # fmt: skip
        metrics = pretrain(config, trial, Artifact.from_path(tokens, "tokens"))
        report = json.loads((trial.out / "report.json").read_text(encoding="utf-8"))
    return metrics["validation_loss"], report["optimizer_share_of_flops"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", required=True, type=Path, help="directory of a quickstart's tokens artifact")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--flops", type=float, default=5e12, help="model FLOPs of one run")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="only these")
    args = parser.parse_args()

    rows = []
    for variant in args.variant or VARIANTS:
        results = [run(variant, seed, args.flops, args.tokens) for seed in range(args.seeds)]
        rows.append({
            "name": variant,
            "validation_loss": contest.spread([loss for loss, _ in results]),
            "optimizer_share_of_flops": results[0][1],
        })  # fmt: skip
        losses = ", ".join(f"{loss:.3f}" for loss, _ in results)
        print(f"{variant:<24} loss {losses}   optimiser {results[0][1]:.0%} of the model's FLOPs", flush=True)
    result = {"what": f"validation loss of the quickstart's base model after {args.flops:.1g} FLOPs", "rows": rows}
    print("wrote", contest.write_result("muon", result))


if __name__ == "__main__":
    main()
