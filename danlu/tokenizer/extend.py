"""Extend a tokenizer: new tokens for a corpus that the old vocabulary cuts into crumbs.

    corpus --pieces, cut and merged as before--> old ids --learn--> new merges, behind all old ones

Merges are applied in the order they were learned. New ones come last, so a piece is first joined as it always was and
only then goes on: the text of old documents is encoded as before wherever no new merge applies, every old id keeps its
meaning, and ids of the old tokenizer decode to the same text with the new one. A new token is thus always made of two
tokens there were before it, and in the end of a row of old ids: `mapping` below says which, and
`danlu.model.vocabulary.extend_embeddings` begins its embedding at their mean.

New ids follow the last id of the file, added tokens included, so no id of a trained model moves.

The mapping is written as `extension.json`: {"base": sha256 of the old tokenizer.json, "tokens": {"49152": [31, 7]}}.

Only byte-level BPE is extended: there every text can be encoded, before and after, and merges have an order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field

from danlu.core.artifact import Artifact, write_json
from danlu.core.errors import UserError
from danlu.core.stage import StageConfig, StageRun, stage
from danlu.data.document import read_documents
from danlu.tokenizer.alphabet import from_alphabet
from danlu.tokenizer.bpe import MAX_MEMORY
from danlu.tokenizer.encoder import make_encoder
from danlu.tokenizer.report import tokenizer_report
from danlu.tokenizer.tokenizer import Tokenizer
from danlu.tokenizer.train import REPORT_BYTES, Sample

EXTENSION_FILE = "extension.json"


class ExtendConfig(StageConfig):
    new_tokens: int = Field(default=4096, gt=0)
    min_frequency: int = Field(default=8, ge=1)  # not tuned; a token has to be seen to get an embedding worth having
    max_memory: int = Field(default=MAX_MEMORY, ge=1 << 20)
    max_training_bytes: int = Field(default=100_000_000, gt=0)
    seed: int = 0


@stage("tokenizer.extend", makes="tokenizer", takes={"corpus": "corpus", "tokenizer": ("tokenizer", "model")})
def extend(config: ExtendConfig, run: StageRun, corpus: Artifact, tokenizer: Artifact) -> dict[str, Any]:
    """Add tokens learned on a corpus to a byte-level BPE tokenizer; all old ids stay.

    Raises UserError for a tokenizer of another kind, or when the corpus gives no new token.
    """
    old = Tokenizer.load(tokenizer.path)
    sample = Sample(corpus, config.max_training_bytes, config.seed)
    new, mapping = extend_tokenizer(
        old,
        sample.texts(run),
        new_tokens=config.new_tokens,
        min_frequency=config.min_frequency,
        max_memory=config.max_memory,
        folder=run.work,
    )
    if not mapping:
        raise UserError("the corpus gives no new token", "lower min_frequency, or take more text")
    new.save(run.out)
    write_json(run.out / EXTENSION_FILE, {"base": old.fingerprint, "tokens": {str(k): v for k, v in mapping.items()}})
    split = "validation" if next(read_documents(corpus, "validation"), None) is not None else "train"
    reports = {
        name: tokenizer_report(t, read_documents(corpus, split), max_bytes=REPORT_BYTES)
        for name, t in (("before", old), ("after", new))
    }
    write_json(run.out / "report.json", reports | {"measured_on": split})
    return {
        "vocab_size": new.vocab_size,
        "new_tokens": len(mapping),
        "bytes_per_token_before": reports["before"]["total"]["bytes_per_token"],
        "bytes_per_token": reports["after"]["total"]["bytes_per_token"],
        "round_trip_errors": reports["after"]["round_trip_errors"],
    }


def extend_tokenizer(
    old: Tokenizer,
    texts: Iterable[str],
    *,
    new_tokens: int,
    min_frequency: int = 8,
    max_memory: int = MAX_MEMORY,
    folder: Path | None = None,
) -> tuple[Tokenizer, dict[int, list[int]]]:
    """The extended tokenizer, and for each new id the old ids it stands for.

    Fewer than `new_tokens` are added when no more pairs occur `min_frequency` times. Raises UserError for a tokenizer
    that is no byte-level BPE.
    """
    state = json.loads(old.to_json())
    model = state["model"]
    if model["type"] != "BPE" or not old.is_byte_level:
        raise UserError(
            f"only byte-level BPE tokenizers can be extended, this is {model['type']}", "train a new one on the corpus"
        )
    vocabulary: dict[str, int] = model["vocab"]
    names = {token_id: name for name, token_id in vocabulary.items()}
    first = old.vocab_size
    merges = _learn(old, vocabulary, texts, first, new_tokens, min_frequency, max_memory, folder)
    for left, right, joined in merges:
        if joined not in names:
            names[joined] = names[left] + names[right]
            vocabulary[names[joined]] = joined
    pairs = [(names[left], names[right]) for left, right, _ in merges]
    as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
    model["merges"] += [" ".join(pair) for pair in pairs] if as_text else [list(pair) for pair in pairs]
    new = Tokenizer(json.dumps(state, ensure_ascii=False), old.config)
    return new, old_parts(old, new)


def old_parts(old: Tokenizer, new: Tokenizer) -> dict[int, list[int]]:
    """For each id that `new` has beyond `old` the old ids it is made of, in order; [] for a special token."""
    model = json.loads(new.to_json())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    parts: dict[int, list[int]] = {}
    for merge in model.get("merges", []):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        joined = vocabulary[left + right]
        if joined >= old.vocab_size and joined not in parts:
            parts[joined] = [part for i in (vocabulary[left], vocabulary[right]) for part in parts.get(i, [i])]
    for token_id in range(old.vocab_size, new.vocab_size):
        if token_id not in parts:  # an added token
            text = "" if token_id in new.special_ids else new.token_bytes(token_id).decode("utf-8", "replace")
            parts[token_id] = old.encode(text)
    return dict(sorted(parts.items()))


def _learn(
    old: Tokenizer,
    vocabulary: dict[str, int],
    texts: Iterable[str],
    first: int,
    room: int,
    min_frequency: int,
    max_memory: int,
    folder: Path | None,
) -> list[tuple[int, int, int]]:
    from danlu.tokenizer.trainer import Trainer, learn_in_python

    tokens = {from_alphabet(name): token_id for name, token_id in vocabulary.items()}
    encoder = make_encoder(old.to_json().encode(), [old.library])
    if encoder is not None:
        with TemporaryDirectory(dir=folder) as runs:
            with Trainer(encoder, tokens, folder=Path(runs), budget=max_memory) as trainer:
                trainer.add(texts)
                learned = trainer.learn(next_id=first, room=room, min_frequency=min_frequency)
                return [(left, right, joined) for left, right, joined in learned.merges.tolist()]
    library, counts = old.library, Counter[str]()
    for text in texts:
        if library.normalizer is not None:
            text = library.normalizer.normalize_str(text)
        counts.update(piece for piece, _ in library.pre_tokenizer.pre_tokenize_str(text))
    words: Counter[tuple[int, ...]] = Counter()
    for piece, count in counts.items():
        words[tuple(token.id for token in library.model.tokenize(piece))] += count
    return learn_in_python(words, tokens, next_id=first, room=room, min_frequency=min_frequency)
