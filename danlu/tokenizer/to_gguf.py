"""A tokenizer as the metadata of a GGUF file: the way back of `gguf.py`, whose table has the keys.

GGUF holds byte-level BPE (`gpt2`) and BPE over characters with byte tokens (`llama`). Two things in a `tokenizer.json`
have no place there:

- *where text is cut before BPE*: llama.cpp knows patterns by name only. Each name that danlu knows is tried on sample
  texts, and the one that cuts most of them alike is written.
- *order of merges* in `llama`: there the token of the highest score is made first. The score of a token is minus the
  place of the merge that makes it.

What comes out is read again and held against the tokenizer on the sample texts. Where any differs, the whole
`tokenizer.json` is written as well (key `tokenizer.huggingface.json`), from which danlu reads the tokenizer back
exactly; llama.cpp does not, and the report says on how many texts it will differ.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from danlu.core.errors import UserError
from danlu.tokenizer.gguf import (
    BYTE,
    CONTROL,
    HUGGING_FACE,
    NORMAL,
    PRE_TOKENIZERS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    tokenizer_from_gguf,
)
from danlu.tokenizer.tokenizer import Tokenizer

CUTS = ("gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "default")  # one name for each rule of PRE_TOKENIZERS
SAMPLES = (
    "The quick brown fox, aged 12½, doesn't jump; it's WE'LL see.",
    "  two  blanks\tand\r\na tab\n\n\n   indented\n",
    "春江潮水连海平，海上明月共潮生。滟滟随波千万里，何处春江无月明！",
    "中文与English混排，2024年12月31日，第1234567号。",
    "def f(x: int) -> int:\n    return x**2 if x != 0 else -1  # ok?\n",
    "0 1 12 123 1234 12345 3.14159 1,000,000 ٣٤٥ Ⅻ",
    "ひらがなとカタカナ、한국어 텍스트, ภาษาไทย, हिन्दी",
    "Привет, мир! Γειά σου, שלום, مرحبا",
    "cafe\u0301 caf\u00e9 \ufb01 \u2126 🙂👩\u200d👩\u200d👧 ❤\ufe0f",
    "http://a.b/c?d=e&f=%20#g <tag attr='v'/> {\"k\": [1, 2]} ... --- ===",
    " ",
    "\n",
)
PRE = "tokenizer.ggml.pre"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Written:
    """`metadata` for the file; `alike` of `len(SAMPLES)` texts get from its tables the ids that the tokenizer gives.

    `exact`: all do, and are cut in the same places, so that other texts do too.
    """

    metadata: dict[str, Any]
    alike: int
    exact: bool


def tokenizer_metadata(tokenizer: Tokenizer, rows: int) -> Written:
    """For a model with `rows` rows in its embedding: ids without a token become unused ones.

    Raises UserError for an algorithm that GGUF has no kind for, and for more tokens than rows.
    """
    source = json.loads(tokenizer.to_json())
    kind = _kind(tokenizer, source["model"])
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens and the model rows for {rows:,}",
            "they do not belong together",
        )
    tokens, types = _tokens(source, rows, kind)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in source["model"]["merges"]]
    values: dict[str, Any] = {"model": kind, "tokens": tokens, "token_type": types}
    if kind == "gpt2":
        values["merges"] = merges
    else:
        values |= {"scores": _scores(tokens, merges), "add_space_prefix": _puts_blank(tokenizer)}
    values |= _special_ids(tokenizer)
    metadata = {f"tokenizer.ggml.{key}": value for key, value in values.items()} | _templates(tokenizer)
    if kind == "gpt2":
        written = _with_cuts(tokenizer, metadata, source)
    else:
        alike, _ = _alike(tokenizer, metadata)
        written = Written(metadata, alike, alike == len(SAMPLES))
    return (
        written if written.exact else replace(written, metadata=written.metadata | {HUGGING_FACE: tokenizer.to_json()})
    )


def _kind(tokenizer: Tokenizer, model: dict[str, Any]) -> str:
    if model["type"] == "BPE" and tokenizer.is_byte_level:
        return "gpt2"
    if model["type"] == "BPE" and model.get("byte_fallback"):
        return "llama"
    raise UserError(
        f"a GGUF file cannot hold this tokenizer ({model['type']})",
        "danlu writes BPE over bytes, or over characters with byte tokens; export to hf instead",
    )


def _tokens(source: dict[str, Any], rows: int, kind: str) -> tuple[list[str], list[int]]:
    tokens, types = [f"[PAD{index}]" for index in range(rows)], [UNUSED] * rows
    unknown = source["model"].get("unk_token")
    for token, index in source["model"]["vocab"].items():
        is_byte = kind == "llama" and _BYTE_TOKEN.fullmatch(token)
        tokens[index], types[index] = token, BYTE if is_byte else UNKNOWN if token == unknown else NORMAL
    for added in source.get("added_tokens", ()):
        index = added["id"]
        if types[index] != UNKNOWN:
            types[index] = CONTROL if added["special"] else USER_DEFINED
        tokens[index] = added["content"]
    return tokens, types


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """Merges ["a b", "ab b"] give "ab" the score 0 and "abb" -1; what no merge makes comes last."""
    made: dict[str, int] = {}
    for place, merge in enumerate(merges):
        made.setdefault(merge.replace(" ", "", 1), place)
    return [-float(made.get(token, len(merges))) for token in tokens]


def _puts_blank(tokenizer: Tokenizer) -> bool:
    return bool(tokenizer.library.encode("a", add_special_tokens=False).tokens[0].startswith("\u2581"))


def _special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    unknown = tokenizer.special_token("unk_token")
    ids = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "padding_token_id": tokenizer.pad_id,
        "unknown_token_id": tokenizer.token_id(unknown) if unknown else None,
    }
    turn = [tokenizer.token_id(name) for name in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")]
    ids["eot_token_id"] = next((i for i in turn if i in tokenizer.stop_ids and i != tokenizer.eos_id), None)
    flags = {
        "add_bos_token": tokenizer.bos_id is not None and tokenizer.prefix_ids[:1] == (tokenizer.bos_id,),
        "add_eos_token": bool(tokenizer.config.get("add_eos_token", False)),
    }
    return {key: value for key, value in ids.items() if value is not None} | flags


def _templates(tokenizer: Tokenizer) -> dict[str, Any]:
    found = tokenizer.config.get("chat_template")
    if isinstance(found, str):
        return {"tokenizer.chat_template": found}
    named = {one["name"]: one["template"] for one in found or ()}
    prefix = "tokenizer.chat_template"
    return {prefix if name == "default" else f"{prefix}.{name}": text for name, text in named.items()}


def _with_cuts(tokenizer: Tokenizer, metadata: dict[str, Any], source: dict[str, Any]) -> Written:
    """`metadata` with the name under which llama.cpp cuts most alike."""
    whole_words = bool(source["model"].get("ignore_merges"))
    best = (-1, -1), ""
    for name in sorted(CUTS, key=lambda name: PRE_TOKENIZERS[name].whole_words != whole_words):
        score = _alike(tokenizer, metadata | {PRE: name})
        best = max(best, (score, name), key=lambda item: item[0])
        if min(score) == len(SAMPLES):
            break
    score, name = best
    return Written(metadata | {PRE: name}, score[0], min(score) == len(SAMPLES))


def _alike(tokenizer: Tokenizer, metadata: dict[str, Any]) -> tuple[int, int]:
    """How many of the sample texts get the same ids from the file's tables, and how many are cut alike."""
    other = tokenizer_from_gguf(metadata)
    assert other is not None
    mine, its = tokenizer.library.pre_tokenizer, other.library.pre_tokenizer
    cut = [mine.pre_tokenize_str(text) == its.pre_tokenize_str(text) for text in SAMPLES] if mine and its else []
    return sum(tokenizer.encode(text) == other.encode(text) for text in SAMPLES), sum(cut)
