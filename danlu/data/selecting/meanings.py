"""Passes over the texts of what is kept: duplicates of meaning, if asked for, and topics for the report.

Vectors are made here from units and their pairs (`dedup.embed`), without a model. They lie in a file that the system
pages in and out: 1 KiB a document.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.stage import StageRun
from danlu.data.dedup.embed import DIMENSIONS, Embedding
from danlu.data.dedup.semantic import SemanticDuplicates, semantic_duplicates
from danlu.data.select import SelectConfig
from danlu.data.selecting.fate import Index
from danlu.data.selecting.texts import read_texts
from danlu.data.selecting.topics import CHARACTERS, topics_of_texts

TOPIC_DOCUMENTS = 1_000  # a sample: enough to see what a corpus speaks of, a third of a second of work


def find_same_meaning(
    measured: Path, index: Index, rows: NDArray[np.uint32], threshold: float, run: StageRun
) -> SemanticDuplicates:
    """Which of `rows` (in the order of their ids) say the same as another in other words; see `dedup.semantic`."""
    kept = np.zeros(len(index), dtype=bool)
    kept[rows] = True
    embedding = Embedding()
    embedding.count(text for _, _, text in read_texts(measured, kept, run))
    vectors = np.memmap(run.work / "vectors.f32", np.float32, "w+", shape=(max(len(rows), 1), DIMENSIONS))
    place = np.full(len(index), -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    in_reading = place[np.sort(rows)]
    start = 0
    for block in embedding.vectors(text for _, _, text in read_texts(measured, kept, run)):
        vectors[in_reading[start : start + len(block)]] = block
        start += len(block)
    return semantic_duplicates(vectors[: len(rows)], threshold=threshold)


def find_topics(
    config: SelectConfig, measured: Path, index: Index, kept: NDArray[np.bool_], run: StageRun
) -> list[dict[str, Any]]:
    """What a sample of the kept prose speaks of: documents and words of each topic, the largest first."""
    if not config.topics or not kept.any():
        return []
    drawn = np.sort(index.draws[kept])
    sample = kept & (index.draws <= drawn[min(len(drawn), TOPIC_DOCUMENTS) - 1])
    read = read_texts(measured, sample, run)
    texts = [text[:CHARACTERS] for _, language, text in read if not language.startswith("code:")]
    if len(texts) < 2 * config.topics:
        return []
    found = topics_of_texts(texts, clusters=config.topics)
    return [{"documents": topic.documents, "words": topic.words} for topic in found]
