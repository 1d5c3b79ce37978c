"""tokenizer: the room between text and numbers.

    corpus --train--> tokenizer --pack--> tokens        (documents become ids, ids become shards)
    messages --chat--> text --encode--> ids             (a conversation becomes a prompt)

Its one class is `Tokenizer` (encode, decode, render a chat); it reads and writes `tokenizer.json` and
`tokenizer_config.json` as every Hugging Face tool does. `bpe` trains one, `reference` says in a page of plain
Python what training means, `chat` renders messages and marks the assistant's tokens, `pack` turns a corpus into
shards, `shards` reads them back by position and by document, and `report` says what a tokenizer costs in each
language. `alphabet` is the table by which bytes stand in JSON, and `gguf` finds the tokenizer inside a GGUF file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.tokenizer.shards import TokenShards
    from danlu.tokenizer.tokenizer import Tokenizer

STAGES: tuple[str, ...] = ("train", "pack", "extend")

__all__ = ["STAGES", "TokenShards", "Tokenizer"]


def __getattr__(name: str) -> Any:
    if name == "Tokenizer":
        from danlu.tokenizer.tokenizer import Tokenizer

        return Tokenizer
    if name == "TokenShards":
        from danlu.tokenizer.shards import TokenShards

        return TokenShards
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
