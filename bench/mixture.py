"""Weights for a mixture out of small runs: proxies on drawn mixtures, a regression, and a run of what it proposes.

    python bench/mixture.py --store DIR en=CORPUS zh=CORPUS [--runs 16] [--steps 200] [--model pico] [--bytes 4000000]

Every run reads the same number of bytes with the same tokenizer and is judged on the same held-out documents, those of
all corpora. The last two runs are the honest part: the proposed mixture and the natural one, trained like the others
and not part of the fit. Writes mixture.json into the store's folder: all runs, the proposal with the rank correlation
of runs predicted from the others, and what the two last runs came to. What is best for small models and few tokens need
not be best for large ones; nothing here measures that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from danlu.core.artifact import write_json
from danlu.core.recipe import build_recipe
from danlu.core.run import run_recipe
from danlu.core.store import Store
from danlu.data.mixing.regression import draw_mixtures, propose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", metavar="NAME=CORPUS")
    parser.add_argument("--store", required=True)
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--model", default="pico")
    parser.add_argument("--bytes", type=int, default=4_000_000)
    args = parser.parse_args()
    corpora = dict(one.split("=", 1) for one in args.corpora)
    store = Store(Path(args.store))
    sizes = {name: store.resolve(spec, ("corpus",)).manifest.metrics["bytes"] for name, spec in corpora.items()}

    def proxy(weights: dict[str, float]) -> float:
        """The loss on held-out text of a small model trained on this mixture."""
        result = run_recipe(build_recipe(recipe(corpora, weights, args), {}), store)
        return float(result.artifacts["proxy"].manifest.metrics["validation_loss"])

    names = sorted(corpora)
    mixtures = draw_mixtures([sizes[name] for name in names], args.runs)
    runs = []
    for row in mixtures.tolist():
        weights = {name: round(share, 4) for name, share in zip(names, row, strict=True)}
        runs.append((weights, proxy(weights)))
        print(json.dumps({"weights": weights, "loss": runs[-1][1]}), flush=True)
    proposal = propose(runs)
    total = sum(sizes.values())
    natural = {name: round(sizes[name] / total, 4) for name in names}
    result = {
        "runs": [{"weights": weights, "loss": loss} for weights, loss in runs],
        "proposal": proposal.to_json(),
        "checked": {
            "proposed": {"weights": proposal.weights, "loss": proxy(proposal.weights)},
            "natural": {"weights": natural, "loss": proxy(natural)},
        },
        "steps": args.steps,
        "model": args.model,
        "bytes": args.bytes,
    }
    write_json(store.root / "mixture.json", result)
    print(json.dumps({key: result[key] for key in ("proposal", "checked")}, indent=1))


def recipe(corpora: dict[str, str], weights: dict[str, float], args: argparse.Namespace) -> dict[str, Any]:
    mix = {"use": "data.mix", "corpora": corpora}
    budget = {"bytes": args.bytes, "max_epochs": 1_000}  # the same number of bytes whatever the weights
    return {
        "name": "mixture",
        "budget": f"{args.steps} steps",
        "stages": {
            "everything": mix,
            "tokenizer": {"use": "tokenizer.train", "corpus": "$everything", "vocab_size": 4096},
            "mixed": {**mix, "weights": weights, **budget},
            "tokens": {"use": "tokenizer.pack", "corpus": "$mixed", "tokenizer": "$tokenizer"},
            "proxy": {
                "use": "train.pretrain",
                "tokens": "$tokens",
                "model": args.model,
                "budget": f"{args.steps} steps",
            },
        },
    }


if __name__ == "__main__":
    main()
