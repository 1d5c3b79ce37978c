"""data-juicer: the filters of its recipes that need no downloaded model or word list; its signatures of 256 hashes.

Its tokenization by spaces fails on texts without them, so Chinese is given as characters, as its documentation advises.
"""

from __future__ import annotations

import functools

from data_juicer.ops.deduplicator.document_minhash_deduplicator import DocumentMinhashDeduplicator
from data_juicer.ops.filter.alphanumeric_filter import AlphanumericFilter
from data_juicer.ops.filter.average_line_length_filter import AverageLineLengthFilter
from data_juicer.ops.filter.character_repetition_filter import CharacterRepetitionFilter
from data_juicer.ops.filter.maximum_line_length_filter import MaximumLineLengthFilter
from data_juicer.ops.filter.special_characters_filter import SpecialCharactersFilter
from data_juicer.ops.filter.text_length_filter import TextLengthFilter
from data_juicer.ops.filter.word_repetition_filter import WordRepetitionFilter
from data_juicer.ops.filter.words_num_filter import WordsNumFilter

from bench.data_peers import serve

SIZE = 1000  # documents in one call, its own default


@functools.cache
def filters() -> list:
    kinds = (
        TextLengthFilter,
        AverageLineLengthFilter,
        MaximumLineLengthFilter,
        AlphanumericFilter,
        SpecialCharactersFilter,
        CharacterRepetitionFilter,
        WordsNumFilter,
        WordRepetitionFilter,
    )
    return [kind() for kind in kinds]


@functools.cache
def signer(tokenization: str) -> DocumentMinhashDeduplicator:
    return DocumentMinhashDeduplicator(tokenization=tokenization)


def quality(texts: list[str], language: str) -> int:
    kept = 0
    for start in range(0, len(texts), SIZE):
        batch = texts[start : start + SIZE]
        samples = {"text": batch, "__dj__stats__": [{} for _ in batch]}
        keep = [True] * len(batch)
        for one in filters():
            samples = one.compute_stats_batched(samples)
            keep = [a and b for a, b in zip(keep, one.process_batched(samples), strict=True)]
        kept += sum(keep)
    return kept


def signatures(texts: list[str], language: str) -> int:
    step = signer("character" if language == "zh" else "space")
    signed = 0
    for text in texts:
        try:
            step.compute_hash({"text": text})
            signed += 1
        except ValueError:  # fewer than five words: an empty set of shingles
            continue
    return signed


if __name__ == "__main__":
    serve({"quality": quality, "signatures": signatures})
