"""What a tokenizer costs: the numbers that decide whether it suits a corpus.

| number            | meaning                                                                              |
|-------------------|--------------------------------------------------------------------------------------|
| bytes_per_token   | UTF-8 bytes of text by ids: how much text fits a context; higher is cheaper          |
| tokens_per_unit   | ids by units of `core.text` (a Han character, a word): fertility; lower is cheaper   |
| vocabulary_used   | share of the vocabulary that occurs at all: unused tokens are wasted parameters      |
| round_trip_errors | documents whose decoded ids are not their text; anything but 0 is a defect           |

All by language, because an average hides what a minority pays: one character of Chinese is three bytes, so bytes
per token compares a language with itself under two vocabularies, and tokens per unit compares languages.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from danlu.core.text import units
from danlu.data.document import Document
from danlu.tokenizer.tokenizer import Tokenizer

_BATCH = 256


@dataclass
class LanguageTable:
    """Counts of documents, bytes and tokens by language."""

    counts: dict[str, list[int]] = field(default_factory=dict)  # language -> [documents, bytes, tokens]

    def add(self, language: str, n_bytes: int, n_tokens: int) -> None:
        row = self.counts.setdefault(language, [0, 0, 0])
        row[0] += 1
        row[1] += n_bytes
        row[2] += n_tokens

    def total(self) -> dict[str, Any]:
        return _row([sum(column) for column in zip(*self.counts.values(), strict=True)] if self.counts else [0, 0, 0])

    def rows(self) -> dict[str, dict[str, Any]]:
        return {language: _row(row) for language, row in sorted(self.counts.items())}


def _row(counts: list[int]) -> dict[str, Any]:
    documents, n_bytes, tokens = counts
    ratio = round(n_bytes / tokens, 4) if tokens else 0.0
    return {"documents": documents, "bytes": n_bytes, "tokens": tokens, "bytes_per_token": ratio}


def tokenizer_report(tokenizer: Tokenizer, documents: Iterable[Document], *, max_bytes: int) -> dict[str, Any]:
    """Measure a tokenizer on the first documents up to `max_bytes` of text. Ids only, no separators."""
    table = LanguageTable()
    n_units: dict[str, int] = {}
    used = np.zeros(tokenizer.vocab_size, dtype=bool)
    errors = 0
    for batch in _batches(documents, max_bytes):
        flat, ends = tokenizer.encode_arrays([d.text for d in batch])
        for document, (start, end) in zip(batch, pairwise(ends.tolist()), strict=True):
            ids = flat[start:end]
            table.add(document.language, len(document.text.encode("utf-8", "replace")), len(ids))
            n_units[document.language] = n_units.get(document.language, 0) + len(units(document.text))
            used[ids] = True
            errors += tokenizer.decode(ids.tolist()) != document.text
    languages = table.rows()
    for language, row in languages.items():
        row["units"] = n_units[language]
        row["tokens_per_unit"] = round(row["tokens"] / n_units[language], 4) if n_units[language] else 0.0
    return {
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": len(tokenizer.special_ids),
        "total": table.total(),
        "languages": languages,
        "vocabulary_used": round(float(used.sum()) / max(1, tokenizer.vocab_size - len(tokenizer.special_ids)), 4),
        "round_trip_errors": errors,
    }


def _batches(documents: Iterable[Document], max_bytes: int) -> Iterable[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text.encode("utf-8", "replace"))
        if len(batch) >= _BATCH or size >= max_bytes:
            yield batch
            batch = []
        if size >= max_bytes:
            return
    if batch:
        yield batch
