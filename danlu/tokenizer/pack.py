"""Packing: a corpus becomes token shards.

    documents --encode--> ids, EOS, ids, EOS, ...  --> train-00000.bin  (see shards.py)

Every document is followed by a separator (the tokenizer's EOS, or BOS where it has none), so a model learns where
texts end, and a packed batch can start anywhere. Nothing is cut and nothing is thrown away: the number of ids
is the sum over documents, and the index leads from any id back to its document.

The tokenizer's files are put beside the shards in `tokenizer/`: ids mean nothing without them, and training needs
nothing else. Documents are encoded in groups of a few megabytes on all cores; one group is all that is in memory.
The report counts bytes per token by language: the figure that turns a loss per token into bits per byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from danlu.core.artifact import Artifact, Manifest, write_json
from danlu.core.errors import UserError
from danlu.core.stage import Estimate, StageConfig, StageRun, stage
from danlu.data.document import Document, read_documents
from danlu.tokenizer.report import LanguageTable
from danlu.tokenizer.shards import TOKENS_FILE, ShardWriter, dtype_for
from danlu.tokenizer.tokenizer import Tokenizer

GROUP_CHARACTERS = 4_000_000
GROUP_DOCUMENTS = 4_096


class PackConfig(StageConfig):
    tokens_per_shard: int = Field(default=100_000_000, gt=0)


def estimate(config: PackConfig, parents: Mapping[str, Manifest | None]) -> Estimate:
    """Rough: about a second a megabyte on one slow core; two or four bytes on disk for three bytes of text."""
    corpus, tokenizer = parents.get("corpus"), parents.get("tokenizer")
    if corpus is None or not (n_bytes := int(corpus.metrics.get("bytes", 0))):
        return Estimate()
    vocab_size = int(tokenizer.metrics.get("vocab_size", 0)) if tokenizer is not None else 0
    return Estimate(seconds=n_bytes * 1e-6, disk_bytes=n_bytes / 3 * dtype_for(vocab_size).itemsize)


@stage(
    "tokenizer.pack",
    makes="tokens",
    takes={"corpus": "corpus", "tokenizer": ("tokenizer", "model")},
    estimate=estimate,
)
def pack(config: PackConfig, run: StageRun, corpus: Artifact, tokenizer: Artifact) -> dict[str, Any]:
    """Encode a corpus into token shards with an index of documents.

    Raises UserError when the corpus has no training documents or the tokenizer no separator.
    """
    encoder = Tokenizer.load(tokenizer.path)
    separator = encoder.eos_id if encoder.eos_id is not None else encoder.bos_id
    if separator is None:
        raise UserError(
            "the tokenizer has neither an eos_token nor a bos_token to put between documents",
            "name one in tokenizer_config.json",
        )
    splits: dict[str, dict[str, Any]] = {}
    for split in _splits(corpus.path):
        table = LanguageTable()
        with ShardWriter(
            run.out,
            split,
            dtype=dtype_for(encoder.vocab_size),
            tokenizer=encoder.fingerprint,
            tokens_per_shard=config.tokens_per_shard,
        ) as writer:
            for group in _groups(read_documents(corpus, split)):
                ids, ends = encoder.encode_arrays([document.text for document in group])
                for document, (start, end) in zip(group, pairwise(ends.tolist()), strict=True):
                    writer.add(document.id, np.append(ids[start:end], np.uint32(separator)))
                    table.add(document.language, len(document.text.encode("utf-8", "replace")), end - start + 1)
                run.progress(writer.documents, None, "documents")
        if writer.documents:
            run.progress(writer.documents, writer.documents, "documents")
            splits[split] = {"shards": writer.shards, **table.total(), "languages": table.rows()}
    if "train" not in splits:
        raise UserError("the corpus has no training documents to pack", "check what the corpus stage kept")
    summary = {
        "tokenizer": encoder.fingerprint,
        "tokenizer_id": tokenizer.id,
        "vocab_size": encoder.vocab_size,
        "separator": separator,
        "dtype": dtype_for(encoder.vocab_size).name,
        "splits": {name: {k: v for k, v in split.items() if k != "languages"} for name, split in splits.items()},
    }
    encoder.save(run.out / "tokenizer")
    write_json(run.out / TOKENS_FILE, summary)
    write_json(run.out / "report.json", splits)
    counts = {f"{name}_{key}": split[key] for name, split in splits.items() for key in ("tokens", "documents", "bytes")}
    return {"vocab_size": encoder.vocab_size, **counts}


def _splits(directory: Path) -> list[str]:
    """The splits of a corpus directory, training first; what was rejected and what was measured are no splits."""
    names = {file.name.rsplit("-", 1)[0] for file in directory.glob("*-*.parquet")} - {"rejected", "scores"}
    return sorted(names, key=lambda name: (name != "train", name))


def _groups(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Documents in lists of about `GROUP_CHARACTERS`; a longer document is a list of its own."""
    group: list[Document] = []
    size = 0
    for document in documents:
        if group and (size + len(document.text) > GROUP_CHARACTERS or len(group) >= GROUP_DOCUMENTS):
            yield group
            group, size = [], 0
        group.append(document)
        size += len(document.text)
    if group:
        yield group
