"""A small mixed corpus, and a tokenizer trained on it, for the tests of this room."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from danlu.core.artifact import Artifact
from danlu.data.document import Document, write_documents
from danlu.tokenizer.bpe import train_bpe
from danlu.tokenizer.chat import CHATML
from danlu.tokenizer.tokenizer import Tokenizer, make_config

SPECIAL = ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"
CODE = 'def shout(text):\n    """Say it loudly."""\n    return text.upper() + "!" * 12  # it\'s loud\n'
PROSE = "The furnace is hot. The furnace is hotter than the sun, they say; don't touch the furnace!"
TEXTS = [
    POEM,
    CODE,
    PROSE,
    "混合 text 的 document 有 2 种语言，123 个字。",
    "emoji 😀👍🏽 and tabs\t\tand\r\nline ends\n\n\n",
]


@cache
def small_json() -> str:
    return train_bpe(TEXTS * 4, vocab_size=420, special_tokens=SPECIAL)


def small_tokenizer(**config: Any) -> Tokenizer:
    settings = {"eos_token": SPECIAL[0], "pad_token": SPECIAL[1], "special_tokens": SPECIAL, "chat_template": CHATML}
    return Tokenizer(small_json(), make_config(**{**settings, **config}))


def documents(prefix: str = "d") -> list[Document]:
    languages = ("zh", "code:python", "en", "zh", "other")
    return [
        Document(id=f"{prefix}{i}", text=text, language=language, source="test")
        for i, (text, language) in enumerate(zip(TEXTS, languages, strict=True))
    ]


def write_corpus(directory: Path, train: list[Document], validation: list[Document] | None = None) -> Artifact:
    directory.mkdir(parents=True, exist_ok=True)
    write_documents(directory, "train", train)
    write_documents(directory, "validation", validation or [])
    return Artifact.from_path(directory, "corpus")
