"""Perplexity and bits per byte of a model on text, with sliding windows.

A text of bytes is tokenised to ids t_1 .. t_n. The model needs for it

    nats = - sum_i log p(t_i | what came before)          perplexity = exp(nats / n)
                                                          bits per byte = nats / ln 2 / bytes

where bytes are the UTF-8 bytes of the text. Perplexity depends on how the text is cut into tokens, bits per byte
does not: it is the number to compare across tokenizers, languages and compressors.

What came before. Position 0 holds the token that begins a document: what the tokenizer's own file puts before every
text (Llama's BOS), else EOS, which stands between documents in training, else BOS. It is context and is never
predicted; the end token is not predicted either, because it stands for no byte. With none of them the first token
has nothing before it, and is paid for with log(vocabulary): every byte is paid for, whatever the tokenizer.

Windows. A model sees at most L positions. Every token is predicted exactly once, and with as long a context as
the stride S allows: the first window predicts L tokens, each later one S new ones, the last is shifted left so that
it too has L positions of context. Example with n = 7, L = 4, S = 2 (. context only, x predicted):

    position    0 1 2 3 4 5 6 7
    window 1    . x x x x               inputs 0-3 predict 1-4
    window 2        . . . x x           inputs 2-5 predict 5, 6
    window 3          . . . . x         inputs 3-6 predict 7

Worked example, two tokens: p(t_1) = 1/2, p(t_2 | t_1) = 1/8, text of 2 bytes. nats = ln 2 + ln 8 = ln 16, perplexity
= exp(ln 16 / 2) = 4, bits per byte = 4 bits / 2 bytes = 2.

In stream mode the documents follow each other with the end token between them, as in training: context reaches
across documents. The separators are context, not predicted, and each document still has its own count.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from danlu.evaluate.statistics import bootstrap_ratio

if TYPE_CHECKING:
    from danlu.model.transformer import Transformer
    from danlu.tokenizer.tokenizer import Tokenizer

_LOGIT_FLOATS = 16_000_000  # logits of one chunk: 64 MB in float32, whatever the vocabulary
_BATCH_POSITIONS = 8192


@dataclass(frozen=True)
class TextScore:
    """Per document: nats, predicted tokens, UTF-8 bytes. Sums and ratios are derived."""

    nats: list[float]
    tokens: list[int]
    bytes: list[int]

    @property
    def bits_per_byte(self) -> float:
        return sum(self.nats) / math.log(2) / max(sum(self.bytes), 1)

    @property
    def perplexity(self) -> float:
        mean = sum(self.nats) / max(sum(self.tokens), 1)
        return math.exp(mean) if mean < 700 else math.inf

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """The numbers of a report. The interval is a bootstrap over documents."""
        bits = [nats / math.log(2) for nats in self.nats]
        return {
            "nats": sum(self.nats),
            "tokens": sum(self.tokens),
            "bytes": sum(self.bytes),
            "documents": len(self.nats),
            "bits_per_byte": self.bits_per_byte,
            "interval": list(bootstrap_ratio(bits, self.bytes, seed=seed)),
            "perplexity": self.perplexity,
        }


@dataclass(frozen=True)
class Window:
    """Inputs ids[begin:end] predict ids[first:end + 1]; `begin < first <= end`."""

    begin: int
    end: int
    first: int


def windows(n: int, length: int, stride: int) -> Iterator[Window]:
    """Cover the predictions 1 .. n of a sequence of n + 1 ids, each exactly once (the picture above)."""
    assert 1 <= stride <= length
    if n <= 0:
        return
    done = min(n, length)
    yield Window(0, done, 1)
    while done < n:
        reach = min(done + stride, n)
        yield Window(reach - length, reach, done + 1)
        done = reach


def score_texts(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    context: int | None = None,
    stride: int | None = None,
    stream: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TextScore:
    """Score every text; `context` defaults to the model's longest, `stride` to half of it."""
    ids = tokenizer.encode_batch(list(texts))
    separator = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.bos_id
    score = score_ids(
        model,
        ids,
        start=opening_token(tokenizer),
        between=separator if stream else None,
        length=min(context or model.config.max_position, model.config.max_position),
        stride=stride,
        progress=progress,
    )
    return TextScore(score, [len(i) for i in ids], [len(text.encode("utf-8", "replace")) for text in texts])


def opening_token(tokenizer: Tokenizer) -> int | None:
    """The token that stands before a text: what the file says, else EOS, else BOS, else none."""
    candidates = (*tokenizer.prefix_ids[-1:], tokenizer.eos_id, tokenizer.bos_id)
    return next((token for token in candidates if token is not None), None)


def score_ids(
    model: Transformer,
    documents: Sequence[Sequence[int]],
    *,
    start: int | None,
    between: int | None = None,
    length: int,
    stride: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Nats of each document of token ids. With `between` the documents form one stream, that token between them."""
    nats = [0.0] * len(documents)
    if start is None:  # nothing before the first token: a uniform guess
        for document in range(len(documents) if between is None else min(1, len(documents))):
            nats[document] += math.log(model.config.vocab_size) if documents[document] else 0.0
    sequences, owners = _sequences(documents, start, between)
    stride = max(1, min(stride or length // 2, length))
    jobs = [(s, window) for s, ids in enumerate(sequences) for window in windows(len(ids) - 1, length, stride)]
    jobs.sort(key=lambda job: job[1].end - job[1].begin)  # equal lengths together: little padding
    total, done, device = len(jobs), 0, next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        while done < total:
            batch = _next_batch(jobs, done)
            for (s, window), losses in zip(batch, _losses(model, sequences, batch, device), strict=True):
                for position, loss in zip(range(window.first, window.end + 1), losses, strict=True):
                    owner = owners[s][position]
                    if owner >= 0:
                        nats[owner] += loss
            done += len(batch)
            if progress is not None:
                progress(done, total)
    return nats


def _sequences(
    documents: Sequence[Sequence[int]], start: int | None, between: int | None
) -> tuple[list[list[int]], list[list[int]]]:
    """The id sequences to score, and for each position the document that pays for it (-1: nobody)."""
    opening = [] if start is None else [start]
    if between is None:
        kept = [(number, list(ids)) for number, ids in enumerate(documents)]
        return [opening + ids for _, ids in kept], [[-1] * len(opening) + [n] * len(ids) for n, ids in kept]
    stream, owner = list(opening), [-1] * len(opening)
    for number, ids in enumerate(documents):
        if number:
            stream.append(between)
            owner.append(-1)
        stream += ids
        owner += [number] * len(ids)
    return [stream], [owner]


def _next_batch(jobs: list[tuple[int, Window]], at: int) -> list[tuple[int, Window]]:
    """As many jobs from `at` on as fit when padded to the longest, which is the last one."""
    size = 0
    for _, window in itertools.islice(jobs, at, None):
        if size and (size + 1) * (window.end - window.begin) > _BATCH_POSITIONS:
            break
        size += 1
    return jobs[at : at + size]


def _losses(
    model: Transformer, sequences: list[list[int]], batch: list[tuple[int, Window]], device: torch.device
) -> list[list[float]]:
    """Nats of the predicted positions of each window.

    Shorter windows are padded on the right, where a causal model cannot see; logits are made for chunks of predicted
    positions, never for the whole batch.
    """
    longest = max(window.end - window.begin for _, window in batch)
    inputs = torch.zeros(len(batch), longest, dtype=torch.long)  # [B, T]
    rows, columns, targets = [], [], []
    for row, (s, window) in enumerate(batch):
        ids = sequences[s]
        inputs[row, : window.end - window.begin] = torch.tensor(ids[window.begin : window.end])
        for position in range(window.first, window.end + 1):
            rows.append(row)
            columns.append(position - 1 - window.begin)
            targets.append(ids[position])
    hidden = model.hidden(inputs.to(device))  # [B, T, D]
    hidden = hidden[torch.tensor(rows, device=device), torch.tensor(columns, device=device)]  # [N, D]
    wanted = torch.tensor(targets, device=device)  # [N]
    chunk = max(1, _LOGIT_FLOATS // model.config.vocab_size)
    losses: list[float] = []
    for at in range(0, len(targets), chunk):
        logits = model.head(hidden[at : at + chunk]).float()  # [chunk, V]
        losses += F.cross_entropy(logits, wanted[at : at + chunk], reduction="none").tolist()
    split, at = [], 0
    for _, window in batch:
        size = window.end - window.first + 1
        split.append(losses[at : at + size])
        at += size
    return split
