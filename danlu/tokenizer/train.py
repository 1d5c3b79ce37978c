"""Train a tokenizer on a corpus (the algorithms and their reasons are in `bpe.py` and `algorithms.py`).

A vocabulary is made of counts, and counts of a sample are as good as counts of everything: beyond a few hundred
megabytes only the rarest merges change. So at most `max_training_bytes` of text are read, as a sample of whole
documents from all over the corpus. Which ones is decided by a hash of seed and document id: documents are
ordered by it and the first that fit are taken. No random state, the same sample whatever order the corpus has;
one pass finds the border, the second trains, and neither holds text.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from danlu.core.artifact import Artifact, Manifest, write_json
from danlu.core.stage import Estimate, StageConfig, StageRun, stage
from danlu.data.document import read_documents
from danlu.tokenizer import bpe, chat
from danlu.tokenizer.algorithms import SAMPLE_BYTES, train_unigram, train_wordpiece
from danlu.tokenizer.report import tokenizer_report
from danlu.tokenizer.tokenizer import Tokenizer, make_config

REPORT_BYTES = 5_000_000


class TrainConfig(StageConfig):
    algorithm: Literal["bpe", "unigram", "wordpiece"] = "bpe"  # see algorithms.py
    vocab_size: int = Field(default=4096, gt=0)
    eos_token: str = "<|endoftext|>"  # ends a document
    pad_token: str = "<|pad|>"  # a token of its own: a pad that is also EOS teaches no end
    special_tokens: tuple[str, ...] = ("<|im_start|>", "<|im_end|>")
    chat_template: str = chat.CHATML
    min_frequency: int = Field(default=2, ge=1)
    han_run: int = Field(default=bpe.HAN_RUN, ge=1, le=16)
    max_memory: int = Field(
        default=bpe.MAX_MEMORY, ge=1 << 20
    )  # bytes; what does not fit goes to disk, then the rarest
    max_training_bytes: int = Field(default=100_000_000, gt=0)
    seed: int = 0


def estimate(config: TrainConfig, parents: Mapping[str, Manifest | None]) -> Estimate:
    """Rough: about a second a megabyte on one slow core; the table of pieces depends on the language."""
    corpus = parents.get("corpus")
    n_bytes = min(config.max_training_bytes, int(corpus.metrics.get("bytes", 0))) if corpus is not None else 0
    return Estimate(seconds=n_bytes * 1e-6, disk_bytes=100.0 * config.vocab_size) if n_bytes else Estimate()


@stage("tokenizer.train", makes="tokenizer", takes={"corpus": "corpus"}, estimate=estimate)
def train(config: TrainConfig, run: StageRun, corpus: Artifact) -> dict[str, Any]:
    """Train a byte-level tokenizer (BPE, or as `algorithm` says) on the training documents of a corpus.

    Raises UserError when the corpus is empty, `vocab_size` too small or the chat template broken.
    """
    chat.check_template(config.chat_template)
    names = list(dict.fromkeys([config.eos_token, config.pad_token, *config.special_tokens]))
    most = config.max_training_bytes if config.algorithm == "bpe" else min(config.max_training_bytes, SAMPLE_BYTES)
    sample = Sample(corpus, most, config.seed)
    counts: dict[str, int] = {}
    tokenizer_json = _train(config, names, sample.texts(run), run, counts)
    tokenizer = Tokenizer(
        tokenizer_json,
        make_config(
            eos_token=config.eos_token,
            pad_token=config.pad_token,
            special_tokens=config.special_tokens,
            chat_template=config.chat_template,
        ),
    )
    if tokenizer.vocab_size < config.vocab_size:
        run.events.emit(
            "warning",
            message=f"the corpus gave {tokenizer.vocab_size} tokens, not {config.vocab_size}: it is too small for more",
        )
    tokenizer.save(run.out)
    held_out = next(read_documents(corpus, "validation"), None) is not None
    split = "validation" if held_out else "train"
    report = tokenizer_report(tokenizer, read_documents(corpus, split), max_bytes=REPORT_BYTES)
    report |= {"measured_on": split, "training_documents": sample.documents, "training_bytes": sample.bytes}
    report |= {key: value for key, value in counts.items() if key.startswith("sample_")}
    if counts.get("dropped_pieces"):
        report["dropped"] = {"pieces": counts["dropped_pieces"], "occurrences": counts["dropped_occurrences"]}
        run.events.emit(
            "warning",
            message=f"max_memory had room for {counts['pieces']} distinct pieces; the {counts['dropped_pieces']} "
            f"rarest ({counts['dropped_occurrences']} occurrences) were not learned from",
        )
    write_json(run.out / "report.json", report)
    return {
        "vocab_size": tokenizer.vocab_size,
        "bytes_per_token": report["total"]["bytes_per_token"],
        "training_bytes": sample.bytes,
        "round_trip_errors": report["round_trip_errors"],
    }


def _train(config: TrainConfig, names: list[str], texts: Iterator[str], run: StageRun, counts: dict[str, int]) -> str:
    """The text of tokenizer.json; what the trainer counted goes into `counts`."""
    size, run_length, frequency = config.vocab_size, config.han_run, config.min_frequency
    if config.algorithm == "unigram":
        return train_unigram(texts, vocab_size=size, special_tokens=names, han_run=run_length, counts=counts)
    if config.algorithm == "wordpiece":
        return train_wordpiece(
            texts, vocab_size=size, special_tokens=names, min_frequency=frequency, han_run=run_length, counts=counts
        )
    return bpe.train_bpe(
        texts,
        vocab_size=size,
        special_tokens=names,
        min_frequency=frequency,
        han_run=run_length,
        max_memory=config.max_memory,
        folder=run.work,
        counts=counts,
    )


class Sample:
    """The documents with the smallest hashes whose text fits `max_bytes`; at least one."""

    def __init__(self, corpus: Artifact, max_bytes: int, seed: int) -> None:
        self.corpus = corpus
        self.key = str(seed).encode()
        kept: list[tuple[int, int]] = []  # a heap of (-hash, bytes): its top is the next to go
        size = 0
        for document in read_documents(corpus, "train"):
            n_bytes = len(document.text.encode("utf-8", "replace"))
            heapq.heappush(kept, (-self._hash(document.id), n_bytes))
            size += n_bytes
            while size > max_bytes and len(kept) > 1:
                size -= heapq.heappop(kept)[1]
        self.border = -kept[0][0] if kept else 0
        self.documents = len(kept)
        self.bytes = size

    def texts(self, run: StageRun) -> Iterator[str]:
        done = 0
        for document in read_documents(self.corpus, "train"):
            if self._hash(document.id) <= self.border:
                done += 1
                run.progress(done, self.documents, "documents")
                yield document.text

    def _hash(self, document_id: str) -> int:
        digest = hashlib.blake2b(document_id.encode("utf-8", "replace"), digest_size=8, key=self.key)
        return int.from_bytes(digest.digest(), "big")
