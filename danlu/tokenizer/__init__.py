"""tokenizer: the room between text and numbers.

    corpus --train--> tokenizer --pack--> tokens        (documents become ids, ids become shards)
    messages --chat--> text --encode--> ids             (a conversation becomes a prompt)

Its one class is `Tokenizer` (encode, decode, render a chat); it reads and writes `tokenizer.json` and
`tokenizer_config.json` as every Hugging Face tool does.

    bpe, algorithms      training: byte-level BPE; Unigram and WordPiece beside it; in one page: `reference`
    train, extend        the stages: a tokenizer from a corpus, more tokens for one there is
    encoder, trainer     the compiled code (cpp/) that does both fast; `characters` is its table of Unicode
    chat, tools          messages to text and ids, the mask of the assistant's tokens, tools in a chat
    pack, shards         a corpus becomes shards, which are read by position and by document
    report, compare      what a tokenizer costs in each language; several on the same texts
    alphabet             the table by which bytes stand in JSON
    gguf, to_gguf        the tokenizer inside a GGUF file, read and written
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.tokenizer.shards import TokenShards
    from danlu.tokenizer.tokenizer import Tokenizer

STAGES: tuple[str, ...] = ("train", "pack", "extend", "compare")

__all__ = ["STAGES", "TokenShards", "Tokenizer"]


def __getattr__(name: str) -> Any:
    if name == "Tokenizer":
        from danlu.tokenizer.tokenizer import Tokenizer

        return Tokenizer
    if name == "TokenShards":
        from danlu.tokenizer.shards import TokenShards

        return TokenShards
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
