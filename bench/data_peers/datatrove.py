"""datatrove: its filters, its signatures of 112 hashes, its reader of WARC with trafilatura; all with their defaults.

A document that one filter drops does not go through the next.
"""

from __future__ import annotations

import functools
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import WarcReader
from datatrove.utils.hashing import HashConfig

from bench.data_peers import serve


@functools.cache
def filters(language: str) -> list:
    return [
        GopherRepetitionFilter(language=language),
        GopherQualityFilter(language=language),
        C4QualityFilter(language=language),
        FineWebQualityFilter(language=language, char_duplicates_ratio=0.1),
    ]


@functools.cache
def signer(language: str) -> MinhashDedupSignature:
    config = MinhashConfig(hash_config=HashConfig(hash_fc="xxhash", precision=64))
    return MinhashDedupSignature(output_folder="/tmp/unused", config=config, language=language)


def quality(texts: list[str], language: str) -> int:
    chain, kept = filters(language), 0
    for text in texts:
        document = Document(text=text, id="")
        kept += all(one.filter(document) is True for one in chain)
    return kept


def signatures(texts: list[str], language: str) -> int:
    step, signed = signer(language), 0
    for text in texts:
        shingles = step.get_shingles(text)
        if shingles.size:
            step.get_signature(shingles)
            signed += 1
    return signed


def html(path: str) -> dict[str, str]:
    pages = WarcReader(str(Path(path).parent), glob_pattern=Path(path).name)(None)
    return {document.metadata["url"]: document.text for document in Trafilatura()(pages)}


if __name__ == "__main__":
    serve({"quality": quality, "signatures": signatures}, html)
