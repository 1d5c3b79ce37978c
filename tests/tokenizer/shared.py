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

# A chat template with tools, in the manner of the Hermes and Qwen families.
HERMES = r"""
{%- if tools %}
    {{- '<|im_start|>system\nTools:\n' }}
    {%- for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '\n' if loop.first and message.content else '' if loop.first else 'BETWEEN' }}
        {{- 'OPENING{"name": "' + call.function.name + '", "arguments": ' }}
        {{- call.function.arguments | tojson + '}CLOSING' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""


def hermes(opening: str = "<tool_call>\n", closing: str = "\n</tool_call>", between: str = "\n") -> str:
    template = HERMES.replace("OPENING", opening).replace("CLOSING", closing).replace("BETWEEN", between)
    return template.strip()


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
