"""How fast training is, and what share of the machine it uses.

The quickstart's model (preset `pico`) is trained on random tokens by danlu's loop, and a `LlamaForCausalLM` of the
same shape by the usual loop around transformers, in the dtype that is faster on this machine. Both count the same
operations (6 per parameter and token plus attention, `Transformer.flops_per_token`), so tokens/s and the share of the
matrix peak say the same thing in two units. danlu is shown with Muon, which it uses, and with AdamW, which the peer
uses.

The peak is a contestant too: in every round a process multiplies square matrices for as long as a training run takes.
Each speed is divided by the peak of its own round; the best single product of all rounds is reported beside it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import contest

SHAPE = {"vocab": 4096, "hidden": 128, "layers": 4, "heads": 2, "kv_heads": 1, "inner": 320}
BATCH_TOKENS, CONTEXT, MICRO_TOKENS = 2048, 256, 2048


def danlu_worker(optimizer_name: str) -> None:
    import torch

    from danlu.core.device import probe, torch_device
    from danlu.model.presets import resolve_model
    from danlu.model.transformer import Transformer
    from danlu.train.loop import Micro, train
    from danlu.train.optim import make_optimizer
    from danlu.train.schedule import Horizon, Schedule, Spent

    torch.manual_seed(0)
    config = resolve_model("pico", SHAPE["vocab"])
    for key, value in (("hidden", config.hidden_size), ("layers", config.n_layers), ("heads", config.n_heads),
                       ("kv_heads", config.n_kv_heads), ("inner", config.intermediate_size)):  # fmt: skip
        assert SHAPE[key] == value, f"the preset has {key} {value}"
    model = Transformer(config).to(torch_device())
    dtype = getattr(torch, probe().dtype)
    optimizer = make_optimizer(model, name=optimizer_name, learning_rate=1e-3, matrix_dtype=dtype, splits=model.splits)

    class Random:
        def next_step(self) -> list[Micro]:
            rows = [
                torch.randint(SHAPE["vocab"], (MICRO_TOKENS // CONTEXT, CONTEXT + 1))
                for _ in range(BATCH_TOKENS // MICRO_TOKENS)
            ]
            return [Micro(r[:, :-1].contiguous(), r[:, 1:].contiguous()) for r in rows]

        def cursor(self) -> dict[str, Any]:
            return {}

        def resume(self, cursor: dict[str, Any]) -> None:
            pass

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        steps = train(
            model, Random(), optimizer, Schedule("constant"), Horizon("steps", request["steps"]), Spent(), dtype=dtype
        )
        begin = time.perf_counter()
        for _ in steps:
            pass
        seconds = time.perf_counter() - begin
        return {
            "tokens_per_second": request["steps"] * BATCH_TOKENS / seconds,
            "flops_per_token": model.flops_per_token(CONTEXT),
            "dtype": str(dtype).removeprefix("torch."),
        }

    contest.serve(handle)


def transformers_worker(dtype_name: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = LlamaConfig(
        vocab_size=SHAPE["vocab"], hidden_size=SHAPE["hidden"], num_hidden_layers=SHAPE["layers"],
        num_attention_heads=SHAPE["heads"], num_key_value_heads=SHAPE["kv_heads"], head_dim=64,
        intermediate_size=SHAPE["inner"], max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    dtype = getattr(torch, dtype_name)

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        begin = time.perf_counter()
        for _ in range(request["steps"]):
            for _ in range(BATCH_TOKENS // MICRO_TOKENS):
                ids = torch.randint(SHAPE["vocab"], (MICRO_TOKENS // CONTEXT, CONTEXT), device=device)
                with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
                    loss = model(input_ids=ids, labels=ids).loss
                (loss * MICRO_TOKENS / BATCH_TOKENS).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        return {"tokens_per_second": request["steps"] * BATCH_TOKENS / (time.perf_counter() - begin)}

    contest.serve(handle)


def referee(rounds: int, steps: int) -> None:
    from danlu.core.device import probe

    device = probe()
    peer = contest.environment("transformers", ["torch==2.13.0", "transformers>=5,<6"])
    script = [__file__, "--worker"]
    contestants = [
        contest.Contestant("danlu, Muon", [sys.executable, *script, "danlu:muon"]),
        contest.Contestant("danlu, AdamW", [sys.executable, *script, "danlu:adamw"]),
        contest.Contestant("transformers Llama, AdamW", [peer, *script, f"transformers:{device.dtype}"]),
    ]
    matrix = contest.Contestant("matrix products", [sys.executable, *script, f"matrix:{device.dtype}"])
    speeds: dict[str, list[float]] = {c.name: [] for c in contestants}
    peaks: list[float] = []
    best = flops = 0.0
    for number in range(rounds + 1):  # the first round warms up and is not counted
        answers = {one.name: one.ask(steps=steps) for one in contestants}
        peak = matrix.ask(seconds=5)
        if number:
            peaks.append(peak["flops"])
            best = max(best, peak["best_flops"])
            flops = answers["danlu, Muon"]["flops_per_token"]
            for name, answer in answers.items():
                speeds[name].append(answer["tokens_per_second"])
    for one in [*contestants, matrix]:
        one.close()
    rows = [
        {
            "name": name,
            "tokens_per_second": contest.spread(v),
            "share_of_peak": contest.spread([s * flops / peak for s, peak in zip(v, peaks, strict=True)]),
            "share_of_best_product": statistics.median(v) * flops / best,
        }
        for name, v in speeds.items()
    ]
    result = {
        "what": f"tokens/s of training the pico preset, batches of {BATCH_TOKENS} tokens in rows of {CONTEXT}",
        "dtype": device.dtype,
        "peak_flops": contest.spread(peaks),
        "best_product_flops": best,
        "matmul_flops": device.matmul_flops,
        "flops_per_token": flops,
        "rounds": rounds,
        "steps_per_run": steps,
        "versions": contest.versions(sys.executable, ["torch"]) | contest.versions(peer, ["transformers"]),
        "rows": rows,
    }
    print(
        f"peak {statistics.median(peaks) / 1e9:.0f} GFLOP/s in {device.dtype} kept up for 5 s, "
        f"{best / 1e9:.0f} in one product; {flops / 1e6:.1f} MFLOP a token"
    )
    for row in rows:
        speed, share = row["tokens_per_second"], row["share_of_peak"]
        rate = f"{speed['median']:8.0f} tokens/s ({speed['low']:.0f} to {speed['high']:.0f})"
        print(f"{row['name']:<28} {rate}  {share['median']:.0%} of peak, {row['share_of_best_product']:.0%} of best")
    print("wrote", contest.write_result("train", result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=16, help="optimiser steps of one run")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    kind, _, detail = (arguments.worker or "").partition(":")
    if kind == "danlu":
        danlu_worker(detail)
    elif kind == "transformers":
        transformers_worker(detail)
    elif kind == "matrix":
        contest.matrix_worker(detail)
    else:
        referee(arguments.rounds, arguments.steps)
