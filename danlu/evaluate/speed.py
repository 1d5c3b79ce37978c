"""How fast a model answers on this machine, and what memory that takes.

    python -m danlu.evaluate.speed MODEL TOKENS REQUESTS [KV_DTYPE]     prints one JSON object

Best of three each time, for the machine is not ours alone. Nothing is remembered from one prompt to the next.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.errors import StageFailed

if TYPE_CHECKING:
    from danlu.engine import Engine

PROMPT, TIMES = 256, 3  # tokens of a prompt; runs of which the best counts


def speeds(engine: Engine, tokens: int, requests: int = 1) -> dict[str, float]:
    """Tokens per second: prefill and decode of one answer of `tokens`, and of `requests` answers at once.

    The engine must have no prefix cache: a prompt that it knows is not read again.
    """
    length = max(2, min(PROMPT, engine.max_context - tokens - 1))
    vocabulary = min(256, engine.model.config.vocab_size)
    prompts = [[(place + shift) % vocabulary for place in range(length)] for shift in range(requests)]
    _seconds(engine, prompts[:1], 2)
    reading, whole = _seconds(engine, prompts[:1], 1), _seconds(engine, prompts[:1], tokens)
    found = {
        "prefill_tokens_per_second": length / reading,
        "decode_tokens_per_second": (tokens - 1) / max(whole - reading, 1e-9),
    }
    if requests > 1:
        found["batched_tokens_per_second"] = requests * tokens / _seconds(engine, prompts, tokens)
    return found


def _seconds(engine: Engine, prompts: list[list[int]], tokens: int) -> float:
    import torch

    from danlu.engine import Sampling

    runs = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        list(engine.generate(prompts, Sampling(max_tokens=tokens, temperature=0.0, ignore_eos=True)))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        runs.append(time.perf_counter() - begin)
    return min(runs)


def in_a_process(model: Path, tokens: int, requests: int, kv_dtype: str = "") -> dict[str, float]:
    """`speeds`, and peak_memory_bytes: of a process of its own, for that is what the system counts memory by.

    Raises StageFailed when the process fails.
    """
    command = [sys.executable, "-m", "danlu.evaluate.speed", str(model), str(tokens), str(requests), kv_dtype]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise StageFailed(f"{model} could not be timed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _main(model: str, tokens: str, requests: str, kv_dtype: str) -> dict[str, Any]:
    from danlu.engine import Engine

    # a cache for these requests and no more: the engine would take what the machine has
    engine = Engine(
        model, max_sequences=int(requests), prefix_cache=False, kv_dtype=kv_dtype or None,
        max_context=PROMPT + int(tokens) + 2,
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {**speeds(engine, int(tokens), int(requests)), "peak_memory_bytes": peak}


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:5])))
