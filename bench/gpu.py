"""The engine on a GPU: what share of the memory's speed decoding reaches, and of the matrix units' speed prefill.

A decoder of a billion parameters (the shape of Llama 3.2 1B) with random weights, so that nothing has to be there but
the GPU. Decoding one stream reads every weight once a token: tokens/s times bytes, over the speed of a large copy, is
the share. A prompt multiplies every weight with every token: operations over the speed of a large product is the share.

    python bench/gpu.py                     all rows
    python bench/gpu.py --only bf16,int4    some of them; --profile says where the time of a step goes

Rows: danlu in bf16, int8 and int4 (group 32); bf16 without one thing at a time that makes it fast, and on torch's own
operators; and the model of the same shape in transformers, where that is installed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import contest
import torch

SHAPE = {
    "vocab_size": 128_256, "hidden_size": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "head_dim": 64,
    "intermediate_size": 8192, "max_position": 16_384, "rope_theta": 500_000.0, "tie_embeddings": True,
}  # fmt: skip
PROMPT, ANSWER = 128, 256  # tokens, of one stream and of each of many
STREAMS = (1, 8, 32, 128)
PREFILLS = (512, 2048, 8192)
ROUNDS = 3
# What a row is: the bits of its weights, and the variables it runs under.
ROWS: dict[str, tuple[int, dict[str, str]]] = {
    "bf16": (16, {}),
    "int8": (8, {}),
    "int4": (4, {}),
    "bf16, one kernel after another": (16, {"DANLU_OVERLAP": "off"}),
    "bf16, not recorded": (16, {"DANLU_GRAPHS": "off"}),
    "bf16, torch's operators": (16, {"DANLU_KERNELS": "off"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="rows, comma-separated")
    parser.add_argument("--profile", action="store_true", help="print the kernels of a step, and write no result")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here")
    names = arguments.only.split(",") if arguments.only else [*ROWS, "transformers"]
    bandwidth, peak = copy_speed(), product_speed()
    print(f"copy {bandwidth / 1e12:.2f} TB/s, bf16 product {peak / 1e12:.0f} TFLOP/s", flush=True)
    rows = []
    for name in names:
        began = time.perf_counter()
        try:
            row = {"name": name} | (
                transformers_row() if name == "transformers" else danlu_row(name, arguments.profile)
            )
        except (ImportError, RuntimeError) as error:
            row = {"name": name, "error": contest.one_line(f"{type(error).__name__}: {error}")}
        add_shares(row, bandwidth, peak)
        rows.append(row)
        print(f"{describe(row)}  ({time.perf_counter() - began:.0f} s)", flush=True)
        torch.cuda.empty_cache()
    if not arguments.profile:
        result = {
            "what": f"shape {SHAPE}, random weights; {PROMPT} tokens in, {ANSWER} out; medians of {ROUNDS} rounds",
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "copy_bytes_per_second": bandwidth,
            "bf16_flops": peak,
            "rows": rows,
        }
        print("wrote", contest.write_result("gpu", result))


def danlu_row(name: str, profile: bool) -> dict[str, Any]:
    from danlu.engine import Engine
    from danlu.kernels import gpu
    from danlu.kernels.gpu import launch
    from danlu.model.quantized import quantize_

    bits, variables = ROWS[name]
    os.environ.update(variables)
    gpu._enabled.cache_clear()
    launch._overlaps.cache_clear()
    try:
        model = random_model()
        if bits < 16:
            quantize_(model, bits)
        # Without a `stall`: how long the streams are disturbed while others begin is another question.
        options: dict[str, Any] = {
            "max_sequences": max(STREAMS), "kv_bytes": 8 << 30, "prefix_cache": False, "stall": None,
        }  # fmt: skip
        engine = Engine((model, None), **options)
        if profile:
            show_profile(engine)
            return {}
        weights = sum(p.nbytes for p in [*model.parameters(), *model.buffers()])
        return {
            "weight_bytes": weights,
            "kv_bytes_per_token": engine.cache.shape.bytes_per_token,
            "streams": {str(n): decode_speed(engine, n) for n in STREAMS},
            "prefill": {str(n): prefill_speed(engine, n) for n in PREFILLS},
        }
    finally:
        for variable in variables:
            del os.environ[variable]
        gpu._enabled.cache_clear()
        launch._overlaps.cache_clear()


def random_model() -> Any:
    from danlu.model.config import ModelConfig
    from danlu.model.transformer import Transformer

    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Transformer(ModelConfig(family="llama", **SHAPE)).to(torch.bfloat16)
    return model.eval()


def prompts(count: int, length: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1000, SHAPE["vocab_size"], (count, length), generator=generator).tolist()  # type: ignore


def decode_speed(engine: Any, n_streams: int) -> dict[str, Any]:
    """Tokens a second of all streams together, from when all have begun until the first one ends."""
    from danlu.engine import Sampling

    speeds = []
    for number in range(ROUNDS + 1):
        sampling = Sampling(temperature=0, max_tokens=ANSWER, ignore_eos=True)
        for prompt in prompts(n_streams, PROMPT, number):
            engine.submit(prompt, sampling)
        running: list[Any] = engine.scheduler.running
        while len(running) < n_streams or any(one.computed < PROMPT for one in running):
            engine.step()
        engine.step()
        begin, n_tokens = time.perf_counter(), 0
        while len(running) == n_streams:
            n_tokens += len(engine.step())
        seconds = time.perf_counter() - begin
        while engine.has_work:
            engine.step()
        if number:  # the first round compiles and records
            speeds.append(n_tokens / seconds)
    return contest.spread(speeds)


def prefill_speed(engine: Any, length: int) -> dict[str, Any]:
    """Tokens a second of one prompt, to its first token."""
    from danlu.engine import Sampling

    def once(number: int) -> float:
        [prompt] = prompts(1, length, 100 + number)
        begin = time.perf_counter()
        list(engine.generate(prompt, Sampling(temperature=0, max_tokens=1)))
        return length / (time.perf_counter() - begin)

    once(0)
    return contest.spread([once(number + 1) for number in range(ROUNDS)])


def transformers_row() -> dict[str, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=SHAPE["vocab_size"], hidden_size=SHAPE["hidden_size"], num_hidden_layers=SHAPE["n_layers"],
        num_attention_heads=SHAPE["n_heads"], num_key_value_heads=SHAPE["n_kv_heads"], head_dim=SHAPE["head_dim"],
        intermediate_size=SHAPE["intermediate_size"], max_position_embeddings=SHAPE["max_position"],
        rope_theta=SHAPE["rope_theta"], tie_word_embeddings=True, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()

    def answer(rows: list[list[int]], n_tokens: int) -> float:
        ids = torch.tensor(rows, device="cuda")
        torch.cuda.synchronize()
        begin = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_tokens, do_sample=False)
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    n_more = 64  # its steps are slow and alike
    streams, prefill = {}, {}
    for count in STREAMS:
        answer(prompts(count, PROMPT, 0), 2)
        speeds = []
        for number in range(ROUNDS):
            rows = prompts(count, PROMPT, number)
            speeds.append(count * n_more / (answer(rows, n_more + 1) - answer(rows, 1)))
        streams[str(count)] = contest.spread(speeds)
    for length in PREFILLS:
        answer(prompts(1, length, 0), 1)
        runs = [length / answer(prompts(1, length, 100 + number), 1) for number in range(ROUNDS)]
        prefill[str(length)] = contest.spread(runs)
    shape: dict[str, Any] = {"weight_bytes": sum(p.nbytes for p in model.parameters()), "streams": streams}
    return shape | {"kv_bytes_per_token": 2 * 2 * SHAPE["n_layers"] * SHAPE["n_kv_heads"] * SHAPE["head_dim"],
                    "prefill": prefill}  # fmt: skip


def add_shares(row: dict[str, Any], bandwidth: float, peak: float) -> None:
    """Of the copy's speed for every step of streams, of the product's speed for every prompt."""
    if "streams" not in row:
        return
    for count, found in row["streams"].items():
        n = int(count)
        bytes_per_step = row["weight_bytes"] + n * (PROMPT + ANSWER // 2) * row["kv_bytes_per_token"]
        found["share_of_bandwidth"] = found["median"] / n * bytes_per_step / bandwidth
    for length, found in row["prefill"].items():
        found["share_of_peak"] = found["median"] * flops(int(length)) / int(length) / peak


def flops(length: int) -> float:
    """Of a prompt: two for each weight of the layers and token, the head once, and causal attention."""
    hidden, layers, inner = SHAPE["hidden_size"], SHAPE["n_layers"], SHAPE["intermediate_size"]
    width, kv_width = SHAPE["n_heads"] * SHAPE["head_dim"], SHAPE["n_kv_heads"] * SHAPE["head_dim"]
    weights = layers * (hidden * (2 * width + 2 * kv_width) + 3 * hidden * inner)
    return 2 * weights * length + 2 * hidden * SHAPE["vocab_size"] + layers * 2 * length * length * width


def copy_speed() -> float:
    """Bytes read and written a second by a copy from device memory to device memory."""
    one, other = (torch.randint(256, (4 << 30,), dtype=torch.uint8, device="cuda") for _ in range(2))
    return 2 * one.nbytes / median_seconds(lambda: other.copy_(one))


def product_speed() -> float:
    """Operations a second of a bf16 product of random square matrices."""
    n = 8192
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    return 2 * n**3 / median_seconds(lambda: torch.mm(a, b))


def median_seconds(work: Callable[[], Any], rounds: int = 10) -> float:
    for _ in range(3):
        work()
    found = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 1000)
    return statistics.median(found)


def show_profile(engine: Any) -> None:
    """The kernels of 20 decoding steps of one stream and of a prompt of 2,048 tokens, by time on the GPU."""
    from torch.profiler import ProfilerActivity, profile

    from danlu.engine import Sampling

    def stream() -> Iterator[Any]:
        return engine.stream(prompts(1, PROMPT, 7)[0], Sampling(temperature=0, max_tokens=60, ignore_eos=True))

    def prefill(number: int) -> None:
        list(engine.generate(prompts(1, 2048, number)[0], Sampling(temperature=0, max_tokens=1)))

    list(stream())
    pieces = stream()
    for _ in range(10):
        next(pieces)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        for _ in range(20):
            next(pieces)
    print("20 decoding steps", found.key_averages().table(sort_by="self_cuda_time_total", row_limit=18))
    prefill(8)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        prefill(9)
    print("a prompt of 2,048", found.key_averages().table(sort_by="self_cuda_time_total", row_limit=14))


def describe(row: dict[str, Any]) -> str:
    if "streams" not in row:
        return f"{row['name']}: {row.get('error', 'profiled')}"
    streams = "  ".join(
        f"{n}: {found['median']:.0f} ({found['share_of_bandwidth']:.0%})" for n, found in row["streams"].items()
    )
    prefill = "  ".join(
        f"{n}: {found['median']:.0f} ({found['share_of_peak']:.0%})" for n, found in row["prefill"].items()
    )
    return f"{row['name']}: {row['weight_bytes'] / 1e9:.2f} GB; decode {streams}; prefill {prefill}"


if __name__ == "__main__":
    sys.exit(main())
