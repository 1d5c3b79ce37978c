"""The tokenizer inside a GGUF file, turned into the Hugging Face one.

A GGUF file carries its vocabulary in its metadata; danlu has one tokenizer path, so this file rewrites it as the two
files that path reads, `tokenizer.json` and `tokenizer_config.json`:

| metadata key (`tokenizer.` before each)   | becomes                                                                |
|-------------------------------------------|------------------------------------------------------------------------|
| ggml.model                                | the algorithm: `gpt2` byte-level BPE, `llama` SentencePiece BPE        |
| ggml.pre                                  | the pre-tokenizer: a row of `PRE_TOKENIZERS`                           |
| ggml.tokens, ggml.token_type              | the vocabulary; control and user-defined tokens become added tokens    |
| ggml.merges (gpt2), ggml.scores (llama)   | the merges; see `_merges_from_scores`                                  |
| ggml.bos/eos/padding/unknown_token_id     | bos_token, eos_token, pad_token, unk_token                             |
| ggml.add_bos_token, add_eos_token         | what the file puts around every text (the post-processor)              |
| ggml.add_space_prefix (llama)             | whether a text gets one blank in front                                 |
| chat_template, chat_template.NAME         | chat_template                                                          |
| huggingface.json                          | tokenizer.json itself: the tables above it are then for llama.cpp      |

The ids are those that llama.cpp gives for the same file (tested against it). One consequence: the original Qwen2
tokenizer puts text into Unicode form NFC first, GGUF cannot say so and llama.cpp does not, and so neither does this:
a decomposed "é" stays two code points, and every text comes back as it was.

Sources: the GGUF specification (tokenizer keys); the `tokenizer.json` files that the model families publish.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from danlu.core.errors import UserError, suggest
from danlu.tokenizer.tokenizer import END_OF_TURN, Tokenizer

HUGGING_FACE = "tokenizer.huggingface.json"  # the text of a tokenizer.json, for what the other keys cannot say

# Values of ggml.token_type.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = _WORDS + r"|\p{N}{1,3}" + _REST
QWEN2 = _WORDS + r"|\p{N}" + _REST


@dataclass(frozen=True)
class PreTokenizer:
    """How a text is cut before BPE: by each pattern in turn, a match being a piece and what is between as well.

    `whole_words`: a piece that is a token is that token, without asking the merges. `add_bos`: what holds when the
    file does not say.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    add_bos: bool = False


_GPT2_RULE = PreTokenizer((GPT2,))
_DIGITS_RULE = PreTokenizer((r"\p{N}", GPT2))
_LLAMA3_RULE = PreTokenizer((LLAMA3,), whole_words=True, add_bos=True)
_QWEN2_RULE = PreTokenizer((QWEN2,))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    **dict.fromkeys(("gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion"), _GPT2_RULE),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _DIGITS_RULE),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA3_RULE),
    **dict.fromkeys(("dbrx", "smaug-bpe"), PreTokenizer((LLAMA3,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"), _QWEN2_RULE),
}


def tokenizer_from_gguf(metadata: Mapping[str, Any], where: str = "the GGUF file") -> Tokenizer | None:
    """The tokenizer in a GGUF file's metadata, None when it carries none.

    Raises UserError, naming `where`, for an algorithm or pre-tokenizer outside the tables and for damaged lists.
    """
    if metadata.get("tokenizer.ggml.model", "none") == "none":
        return None
    vocabulary = _Vocabulary(metadata, where)
    if isinstance(whole := metadata.get(HUGGING_FACE), str):
        return Tokenizer(whole, _tokenizer_config(vocabulary))
    return Tokenizer(json.dumps(_tokenizer_json(vocabulary), ensure_ascii=False), _tokenizer_config(vocabulary))


class _Vocabulary:
    """The checked lists of one file, and its settings by short name."""

    def __init__(self, metadata: Mapping[str, Any], where: str) -> None:
        self.metadata, self.where = metadata, where
        self.kind = str(self.setting("model"))
        if self.kind not in ("gpt2", "llama"):
            raise UserError(
                f'{where} has a tokenizer of kind "{self.kind}"; danlu reads "gpt2" (byte-level BPE) and "llama" '
                "(SentencePiece BPE)",
                "take a model of another family, or import its Hugging Face directory",
            )
        self.tokens: list[str] = self._list("tokens", str)
        self.types: list[int] = self._list("token_type", int) or [NORMAL] * len(self.tokens)
        self.scores: list[float] = self._list("scores", float)
        self.merges: list[str] = self._list("merges", str)
        if not self.tokens or len(self.types) != len(self.tokens):
            raise self.damaged(f"{len(self.tokens)} tokens and {len(self.types)} token types")
        self._check_text()
        self.tokens = _unique(self.tokens)
        self.types = [self._override(i, kind) for i, kind in enumerate(self.types)]
        self.rule = self._rule()

    def setting(self, name: str, default: Any = None) -> Any:
        return self.metadata.get(f"tokenizer.ggml.{name}", default)

    def damaged(self, what: str) -> UserError:
        return UserError(f"the tokenizer in {self.where} is damaged: {what}", "download or convert the file again")

    def special(self, role: str) -> str | None:
        """The token that `<role>_token_id` names, None when the file names none."""
        index = self.setting(f"{role}_token_id")
        if index is None or index == 0xFFFFFFFF:  # some converters write -1 for "none"
            return None
        if not isinstance(index, int) or not 0 <= index < len(self.tokens):
            raise self.damaged(f"{role}_token_id is {index!r}, and there are {len(self.tokens):,} tokens")
        return self.tokens[index]

    def _list(self, name: str, kind: type) -> list[Any]:
        values = self.setting(name, [])
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise self.damaged(f"ggml.{name} is not a list of {kind.__name__}")
        return values

    def _check_text(self) -> None:
        try:
            "".join(self.tokens).encode()
            "".join(self.merges).encode()
        except UnicodeEncodeError:
            raise self.damaged("a token is not UTF-8") from None

    def _override(self, index: int, kind: int) -> int:
        """Some converters forgot to mark the ends of turns, and every bos and eos, as control tokens."""
        marked = self.tokens[index] in END_OF_TURN or (
            self.kind == "gpt2" and index in (self.setting("bos_token_id"), self.setting("eos_token_id"))
        )
        return CONTROL if marked and kind in (NORMAL, USER_DEFINED) else kind

    def _rule(self) -> PreTokenizer:
        if self.kind == "llama":
            return PreTokenizer((), add_bos=True)
        name = str(self.setting("pre", "default"))
        if name not in PRE_TOKENIZERS:
            raise UserError(
                f'{self.where} has the pre-tokenizer "{name}", which danlu does not know', suggest(name, PRE_TOKENIZERS)
            )
        return PRE_TOKENIZERS[name]


def _unique(tokens: list[str]) -> list[str]:
    """Give a repeated token a name of its own: a vocabulary maps each string to one id, which is the last one's."""
    if len(set(tokens)) == len(tokens):
        return tokens
    last = {token: index for index, token in enumerate(tokens)}
    return [token if last[token] == index else f"{token}#{index}" for index, token in enumerate(tokens)]


def _tokenizer_json(vocabulary: _Vocabulary) -> dict[str, Any]:
    byte_level = vocabulary.kind == "gpt2"
    parts = _byte_level_parts(vocabulary) if byte_level else _sentencepiece_parts(vocabulary)
    added = [
        {
            "id": index, "content": token, "special": kind != USER_DEFINED,
            "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
        }
        for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if token and kind in (CONTROL, USER_DEFINED, UNKNOWN)
    ]  # fmt: skip
    return {"version": "1.0", "added_tokens": added, "post_processor": _post_processor(vocabulary), **parts}


def _byte_level_parts(vocabulary: _Vocabulary) -> dict[str, Any]:
    merges = [merge.split(" ", 1) for merge in vocabulary.merges]
    known = set(vocabulary.tokens)
    for index, pair in enumerate(merges):
        if len(pair) != 2 or not known.issuperset((*pair, "".join(pair))):
            raise vocabulary.damaged(f"merge {index} ({vocabulary.merges[index]!r}) is not of two tokens")
    cuts = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in vocabulary.rule.patterns
    ]
    alphabet = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cuts, alphabet]},
        "decoder": alphabet,
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(vocabulary.tokens)},
            "merges": merges,
            "ignore_merges": vocabulary.rule.whole_words,
        },
    }


def _sentencepiece_parts(vocabulary: _Vocabulary) -> dict[str, Any]:
    """BPE over characters with U+2581 for blanks, and the tokens <0x00> to <0xFF> for what has no token."""
    blank = {"pattern": {"String": " "}, "content": "\u2581"}
    decoder: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    normalizer: list[dict[str, Any]] = [{"type": "Replace", **blank}]
    if vocabulary.setting("add_space_prefix", True):
        normalizer.insert(0, {"type": "Prepend", "prepend": "\u2581"})
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizer},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoder},
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(vocabulary.tokens)},
            "merges": _merges_from_scores(vocabulary),
            "unk_token": vocabulary.special("unknown") or (vocabulary.tokens[0]),
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def _merges_from_scores(vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    """SentencePiece joins whichever neighbours make the token of the highest score; as an ordered list of merges.

    Every way to cut a token into two tokens is a merge, and merges come in the order of the score of what they make.
    Tokens ["a", "b", "ab", "abb"] with scores [0, 0, -1, -2] give [("a", "b"), ("ab", "b")].
    """
    if len(vocabulary.scores) != len(vocabulary.tokens):
        raise vocabulary.damaged(f"{len(vocabulary.tokens)} tokens and {len(vocabulary.scores)} scores")
    pieces = {
        token: index
        for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in (NORMAL, UNUSED)
    }
    merges = [
        (-vocabulary.scores[index], pieces[token[:cut]], pieces[token[cut:]])
        for token, index in pieces.items()
        for cut in range(1, len(token))
        if token[:cut] in pieces and token[cut:] in pieces
    ]
    return [(vocabulary.tokens[left], vocabulary.tokens[right]) for _, left, right in sorted(merges)]


def _post_processor(vocabulary: _Vocabulary) -> dict[str, Any] | None:
    """`$A` with the bos before and the eos after it where the file asks for them."""
    add_bos = vocabulary.setting("add_bos_token", vocabulary.rule.add_bos)
    first = vocabulary.special("bos") if add_bos else None
    last = vocabulary.special("eos") if vocabulary.setting("add_eos_token", False) else None
    if first is None and last is None:
        return None

    def special(token: str | None) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": token, "type_id": 0}}] if token is not None else []

    one = [*special(first), {"Sequence": {"id": "A", "type_id": 0}}, *special(last)]
    two = [*one, *special(first), {"Sequence": {"id": "B", "type_id": 0}}, *special(last)]
    names = [token for token in (first, last) if token is not None]
    table = {t: {"id": t, "ids": [vocabulary.tokens.index(t)], "tokens": [t]} for t in names}
    return {"type": "TemplateProcessing", "single": one, "pair": two, "special_tokens": table}


def _tokenizer_config(vocabulary: _Vocabulary) -> dict[str, Any]:
    roles = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(vocabulary.setting("add_bos_token", vocabulary.rule.add_bos)),
        "add_eos_token": bool(vocabulary.setting("add_eos_token", False)),
    }
    for key, role in roles.items():
        if (token := vocabulary.special(role)) is not None:
            config[key] = token
    prefix = "tokenizer.chat_template"
    templates = {
        key.removeprefix(prefix).removeprefix(".") or "default": text
        for key, text in vocabulary.metadata.items()
        if (key == prefix or key.startswith(prefix + ".")) and isinstance(text, str)
    }
    if set(templates) == {"default"}:
        config["chat_template"] = templates["default"]
    elif templates:
        config["chat_template"] = [{"name": name, "template": text} for name, text in sorted(templates.items())]
    return config
