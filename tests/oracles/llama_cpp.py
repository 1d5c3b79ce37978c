"""What llama.cpp says about two real GGUF files: the oracle behind tests/model/gguf/test_real.py.

Run it in an environment of its own (llama-cpp-python compiles llama.cpp, which takes a while):

    python -m venv /tmp/oracle
    /tmp/oracle/bin/pip install gguf llama-cpp-python
    /tmp/oracle/bin/python tests/oracles/llama_cpp.py             writes tests/oracles/llama_cpp.json beside it

For each model it records, with the sha256 of the file:

- `texts`: the ids of awkward strings, special tokens read as text;
- `prompts`: the ids of each prompt and the greedy continuation, computed by llama.cpp from **the same weights in
  float32**: the file is dequantised with the `gguf` package into a float32 GGUF, and the KV cache is float32 too.
  llama.cpp multiplies quantised weights by activations that it quantises to 8 bits, so on the original file it
  answers a slightly different question. How different is recorded too: `quantised` holds the position of the first
  token that differs there (null: none) and the gap between the two best float32 logits at that place;
- `smallest_gap`: the smallest such gap on the path, that is, how much room for rounding the comparison has.

And once: `pre_tokenizers`, the ids of the same strings when SmolLM2's vocabulary is declared to have another
pre-tokenizer, and `sentencepiece`, those of a small SentencePiece vocabulary that is written into the JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # instead of this directory: this file has the name of the module that it asks

import gguf  # noqa: E402
import llama_cpp  # noqa: E402
import numpy as np  # noqa: E402

from tests.assets import ASSETS, fetch  # noqa: E402

MODELS = ("smollm2", "qwen2.5-coder")
TOKENS = {"smollm2": 48, "qwen2.5-coder": 32}


def chat(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def quicksort(items: list[int]) -> list[int]:\n",
    chat("Write a haiku about autumn."),
    "春天来了，花儿开了，",
    "床前明月光，",
    chat("用中文解释一下什么是机器学习。"),
    chat("写一个 Python 函数，返回斐波那契数列的前 n 项。"),
]

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two  and   three    blanks ",
    "tab\tand\nnewline\r\nand\n\n\nmore \n \n  end",
    "trailing blanks   ",
    "\n\n\n",
    "   \t\t  \n\t",
    "It's we'll I'VE they'd DON'T 'S 'Tis can’t",
    "0 12 345 6789 1234567890 3.14159 1,000,000 ²³ ½ Ⅻ ٣٤٥ 一二三",
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
    "中文English混排123测试，「引号」（括号）！？……——",
    "繁體中文與日本語のテキスト、한국어도 함께。",
    "🙂🚀👩‍👩‍👧‍👦🇨🇳 ❤️‍🔥 emoji",
    "café café naïve Zürich Ångström ﬁ ﬀ",
    "Привет, мир! Γειά σου Κόσμε שלום עולם مرحبا بالعالم नमस्ते ไทย",
    "for i in range(10):\n    if x[i] != y['k']:\n\t\treturn -1  # !!\n",
    '#include <stdio.h>\nint main(void) { printf("%d\\n", 42); return 0; }',
    "https://example.com/path?a=1&b=%20#frag user@host.org C:\\dir\\file.txt",
    "a" * 70 + "!" * 40 + "-" * 33 + "=" * 9,
    "<|im_start|>user\nhello<|im_end|>\n<|endoftext|>",
    "<s>[INST] <<SYS>> </s> <unk> <pad>",
    "\u00a0no\u00a0break\u2003em\u3000ideographic\u200bzero\u2028line\u0085next",
    "\x00\x01\x1f\x7f control",
    "\ufeffbom \ufffd \U0001f9ff \U00020000 \U000e0001",
    "x=1;y=2;;z===3&&w||v<<=4>>>5 ->=> ::<>() [] {} ... ??",
    "ALLCAPS CamelCase snake_case kebab-case dotted.name __dunder__",
    "SELECT * FROM t WHERE a<>'b' AND c>=1.0e-9;",
]

PRE_TOKENIZERS = ["gpt-2", "smollm", "llama-bpe", "qwen2", "default", "dbrx"]

# A SentencePiece vocabulary small enough to print: characters, words that compete, and all 256 byte tokens.
PIECES = ["▁", "e", "t", "a", "o", "i", "n", "s", "h", "r", "l", "d", "中", "文", ",", "!", "w", "H"]
WORDS = ["▁t", "he", "in", "▁a", "re", "on", "▁the", "er", "▁th", "ll", "▁▁", "lo", "ello", "▁H", "Hello", "▁Hello",
         "▁w", "or", "▁wor", "ld", "▁world", "中文", "an", "and", "▁and", "▁▁▁▁", "the", "nd", "th", "▁in"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        result = {
            "versions": {
                "llama-cpp-python": _version("llama-cpp-python"),
                "gguf": _version("gguf"),
                "numpy": np.__version__,
            },
            "texts": TEXTS,
            "models": {name: record_model(name, scratch, arguments.threads) for name in MODELS},
            "pre_tokenizers": record_pre_tokenizers(fetch("smollm2"), scratch),
            "sentencepiece": record_sentencepiece(scratch),
        }
    arguments.out.write_text(json.dumps(result, ensure_ascii=True, indent=None) + "\n", encoding="utf-8")
    for name, model in result["models"].items():
        for prompt in model["prompts"]:
            print(
                f"{name:14} gap {prompt['smallest_gap']:.4f}  quantised {prompt['quantised']}  {prompt['text'][:40]!r}"
            )


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def record_model(name: str, scratch: Path, threads: int) -> dict[str, Any]:
    path = fetch(name)
    plain = scratch / f"{name}-f32.gguf"
    dequantise_file(path, plain)
    model = load(plain, threads)
    texts = [model.tokenize(text.encode(), add_bos=False, special=False) for text in TEXTS]
    prompts = []
    for text in PROMPTS:
        ids = model.tokenize(text.encode(), add_bos=False, special=True)
        greedy, gaps = continue_greedily(model, ids, TOKENS[name])
        prompts.append({"text": text, "ids": ids, "greedy": greedy, "smallest_gap": round(min(gaps), 5), "gaps": gaps})
    model.close()
    plain.unlink()

    original = load(path, threads)
    for prompt in prompts:
        found, _ = continue_greedily(original, prompt["ids"], TOKENS[name])
        differs = [i for i, (a, b) in enumerate(zip(prompt["greedy"], found, strict=True)) if a != b]
        gaps = prompt.pop("gaps")
        prompt["quantised"] = {"at": differs[0], "gap": round(gaps[differs[0]], 5)} if differs else None
    original.close()
    return {"file": path.name, "sha256": ASSETS[name].sha256, "text_ids": texts, "prompts": prompts}


def load(path: Path, threads: int, *, vocabulary_only: bool = False) -> llama_cpp.Llama:
    return llama_cpp.Llama(
        str(path), n_ctx=256, n_batch=256, n_threads=threads, n_threads_batch=threads, n_gpu_layers=0, seed=0,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False, verbose=False,
        vocab_only=vocabulary_only,
    )  # fmt: skip


def continue_greedily(model: llama_cpp.Llama, ids: list[int], n: int) -> tuple[list[int], list[float]]:
    """n tokens, each the one of the highest logit, and by how much it was ahead of the second."""
    model.reset()
    model.eval(ids)
    greedy: list[int] = []
    gaps: list[float] = []
    for _ in range(n):
        pointer = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        logits = np.ctypeslib.as_array(pointer, shape=(model.n_vocab(),))
        best = int(np.argmax(logits))
        second, first = np.partition(logits, -2)[-2:]
        greedy.append(best)
        gaps.append(float(first - second))
        model.eval([best])
    return greedy, gaps


def dequantise_file(source: Path, target: Path) -> None:
    """The same model with every tensor in float32."""
    reader = gguf.GGUFReader(source)
    writer = copy_metadata(reader, target, {})
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    finish(writer)


def copy_metadata(reader: gguf.GGUFReader, target: Path, changes: dict[str, str]) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, changes.get(field.name, field.contents()), kind, sub_type=element)
    return writer


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def record_pre_tokenizers(path: Path, scratch: Path) -> dict[str, list[list[int]]]:
    recorded = {}
    for name in PRE_TOKENIZERS:
        target = scratch / f"{name}.gguf"
        finish(copy_metadata(gguf.GGUFReader(path), target, {"tokenizer.ggml.pre": name}))
        model = load(target, 1, vocabulary_only=True)
        recorded[name] = [model.tokenize(text.encode(), add_bos=False, special=False) for text in TEXTS]
        model.close()
    return recorded


def record_sentencepiece(scratch: Path) -> dict[str, Any]:
    specials = ["<unk>", "<s>", "</s>"]
    tokens = specials + [f"<0x{byte:02X}>" for byte in range(256)] + WORDS + PIECES
    scores = [0.0] * (3 + 256) + [-float(i) for i in range(len(WORDS))] + [-1000.0 - i for i in range(len(PIECES))]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(WORDS) + len(PIECES))
    target = scratch / "sentencepiece.gguf"
    writer = gguf.GGUFWriter(target, "llama")
    for key, value in {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 32,
                       "attention.head_count": 1, "vocab_size": len(tokens)}.items():  # fmt: skip
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    finish(writer)
    model = load(target, 1, vocabulary_only=True)
    ids = [model.tokenize(text.encode(), add_bos=False, special=False) for text in TEXTS]
    model.close()
    return {"tokens": tokens, "scores": scores, "token_type": kinds, "text_ids": ids}


if __name__ == "__main__":
    main()
