"""Trim a tokenizer: fewer tokens, and the texts that matter are still cut as they were.

    tokens that a corpus uses  +  all bytes  +  all added tokens  +  what these are merged from   --->   tokenizer.json

BPE takes the pair with the lowest rank, again and again. Strike merges off the list, and a piece that never needed
them is merged in the same steps as before: the pair it took was the lowest of all, so it is the lowest of those that
are left. What it needs is each token on the way, not the last one alone. Worked example, merges in order:

    l o -> lo     lo w -> low     e r -> er     low er -> lower     n e -> ne     ne w -> new

A corpus that uses `lower` keeps lo, low, er, lower with it; `new` goes, and with it `ne`. "newer" was new, er and is
now n, e, w, er: longer, and the same text. Bytes stay, so every text can be written.

The way of a token is found by merging its own bytes: no merge reaches over the edge of a token that stands in the
result, so within it nothing depends on the neighbours.

New ids are the old ones with the gaps closed, in the same order. Wherever tokenizer.json or tokenizer_config.json names
an id, the new one is put.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from danlu.core.errors import UserError
from danlu.tokenizer.alphabet import BYTE_TO_CHARACTER
from danlu.tokenizer.tokenizer import Tokenizer


def trim_tokenizer(old: Tokenizer, used: Iterable[int]) -> tuple[Tokenizer, list[int]]:
    """A tokenizer with the tokens `used` (ids of `old`) and all they need, and the old id of each new id.

    Raises UserError for a tokenizer that is no byte-level BPE.
    """
    state = json.loads(old.to_json())
    model = state["model"]
    if model["type"] != "BPE" or not old.is_byte_level:
        raise UserError(
            f"only byte-level BPE tokenizers can be trimmed, this is {_kind(model)}",
            "what others cannot write without a token they cannot write at all",
        )
    vocabulary: dict[str, int] = model["vocab"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    added = {token["content"]: token["id"] for token in state["added_tokens"]}
    wanted = set(used)
    names = _with_parts({name for name, token_id in vocabulary.items() if token_id in wanted}, merges)
    names |= {name for name in BYTE_TO_CHARACTER.values() if name in vocabulary}
    ids = sorted({vocabulary[name] for name in names} | set(added.values()))
    new_of = {old_id: new_id for new_id, old_id in enumerate(ids)}

    model["vocab"] = {name: new_of[token_id] for name, token_id in vocabulary.items() if token_id in new_of}
    kept = [
        merge for merge, (left, right) in zip(model["merges"], merges, strict=True)
        if left in model["vocab"] and right in model["vocab"] and left + right in model["vocab"]
    ]  # fmt: skip
    model["merges"] = kept
    for token in state["added_tokens"]:
        token["id"] = new_of[token["id"]]
    _renumber(state.get("post_processor"), new_of)
    if state.get("padding"):
        state["padding"]["pad_id"] = new_of.get(state["padding"]["pad_id"], 0)
    config = dict(old.config)
    if "added_tokens_decoder" in config:
        config["added_tokens_decoder"] = {
            str(new_of[int(i)]): token for i, token in config["added_tokens_decoder"].items() if int(i) in new_of
        }
    return Tokenizer(json.dumps(state, ensure_ascii=False), config), ids


def _with_parts(names: set[str], merges: list[tuple[str, ...]]) -> set[str]:
    """`names`, and every token that comes and goes while one of them is merged from its bytes."""
    ranks = {(left, right): rank for rank, (left, right) in reversed(list(enumerate(merges)))}
    found = set(names)
    for name in names:
        symbols = list(name)
        while len(symbols) > 1:
            rank, at = min((ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(symbols)))
            if rank == len(ranks):
                break  # a token that merging does not reach
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            found.add(symbols[at])
    return found


def _renumber(part: Any, new_of: dict[int, int]) -> None:
    """Ids that a post-processor puts around a text."""
    if not isinstance(part, dict):
        return
    for inner in part.get("processors", ()):
        _renumber(inner, new_of)
    if part.get("type") == "TemplateProcessing":
        for token in part["special_tokens"].values():
            token["ids"] = [new_of[i] for i in token["ids"]]
    for role in ("sep", "cls"):  # BERT's and RoBERTa's: [token, id]
        if role in part:
            part[role][1] = new_of[part[role][1]]


def _kind(model: dict[str, Any]) -> str:
    return "BPE over characters (sentencepiece)" if model["type"] == "BPE" else str(model["type"])
