"""How fast a model answers on this machine, and what memory that takes.

    python -m danlu.evaluate.speed MODEL TOKENS REQUESTS [KV_DTYPE]     prints one JSON object

The best of several tries counts, for the machine is not ours alone. Where models are set beside each other, the tries
go in rounds through all of them: who else works here for a minute slows a try of each and not all tries of one. Nothing
is remembered from one prompt to the next.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.device import peak_bytes
from danlu.core.errors import StageFailed

if TYPE_CHECKING:
    from danlu.engine import Engine

PROMPT, TIMES = 256, 3  # tokens of a prompt; tries of which the best counts


def speeds(engine: Engine, tokens: int, requests: int = 1, times: int = TIMES) -> dict[str, float]:
    """Tokens per second: prefill and decode of one answer of `tokens`, and of `requests` answers at once.

    Decode is timed from an answer's first token to its last. The difference of two answers, a short and a long one,
    would be as fast as one likes when the short one was disturbed. The time of several at once includes reading their
    prompts, which goes on while others are answered already.

    The engine must have no prefix cache: a prompt that it knows is not read again.
    """
    length = max(2, min(PROMPT, engine.max_context - tokens - 1))
    vocabulary = min(256, engine.model.config.vocab_size)
    prompts = [[(place + shift) % vocabulary for place in range(length)] for shift in range(requests)]
    _seconds_alone(engine, prompts[0], 2)
    alone = [_seconds_alone(engine, prompts[0], tokens) for _ in range(times)]
    found = {
        "prefill_tokens_per_second": length / min(reading for reading, _ in alone),
        "decode_tokens_per_second": (tokens - 1) / min(writing for _, writing in alone),
    }
    if requests > 1:
        best = min(_seconds_together(engine, prompts, tokens) for _ in range(times))
        found["batched_tokens_per_second"] = requests * tokens / best
    return found


def _seconds_alone(engine: Engine, prompt: list[int], tokens: int) -> tuple[float, float]:
    """Until the first of `tokens`, and from there to the last. Every token is read from the device when it is made."""
    from danlu.engine import Sampling

    begin = time.perf_counter()
    stream = engine.stream(prompt, Sampling(max_tokens=tokens, temperature=0.0, ignore_eos=True))
    next(stream)
    first = time.perf_counter()
    for _ in stream:
        pass
    return first - begin, time.perf_counter() - first


def _seconds_together(engine: Engine, prompts: list[list[int]], tokens: int) -> float:
    from danlu.engine import Sampling

    begin = time.perf_counter()
    list(engine.generate(prompts, Sampling(max_tokens=tokens, temperature=0.0, ignore_eos=True)))
    return time.perf_counter() - begin


def in_processes(
    models: Mapping[str, tuple[Path, str]],
    tokens: int,
    requests: int,
    *,
    times: int = TIMES,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """By name of (model, type of its KV cache or ""): `speeds`, the best of `times` rounds through all models.

    Also peak_memory_bytes, of a process that loads the model and answers, and speed_spread: how far the slowest round
    of one answer lies below the fastest, as a share. Raises StageFailed when a process fails.
    """
    tries: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for number in range(times):
        for at, (name, (path, kv_dtype)) in enumerate(models.items()):
            tries[name].append(_in_a_process(path, tokens, requests, kv_dtype))
            if progress is not None:
                progress(number * len(models) + at + 1, times * len(models))
    found = {name: {key: max(one[key] for one in each) for key in each[0]} for name, each in tries.items()}
    for name, best in found.items():
        slowest = min(one["decode_tokens_per_second"] for one in tries[name])
        best["speed_spread"] = 1 - slowest / best["decode_tokens_per_second"]
    return found


def _in_a_process(model: Path, tokens: int, requests: int, kv_dtype: str) -> dict[str, float]:
    command = [sys.executable, "-m", "danlu.evaluate.speed", str(model), str(tokens), str(requests), kv_dtype]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise StageFailed(f"{model} could not be timed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _main(model: str, tokens: str, requests: str, kv_dtype: str = "") -> dict[str, Any]:
    from danlu.engine import Engine

    # a cache for these requests and no more: the engine would take what the machine has
    engine = Engine(
        model, max_sequences=int(requests), prefix_cache=False, kv_dtype=kv_dtype or None,
        max_context=PROMPT + int(tokens) + 2,
    )  # fmt: skip
    return {**speeds(engine, int(tokens), int(requests), 1), "peak_memory_bytes": peak_bytes()}


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:5])))
