"""perplexity: the worked example, and windows that lose nothing and count nothing twice."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from danlu.evaluate.perplexity import TextScore, opening_token, score_ids, score_texts, windows
from danlu.model.transformer import Transformer
from danlu.tokenizer.tokenizer import Tokenizer


class Bigram(nn.Module):
    """A model whose next-token probabilities are a table: p(next | current) = table[current, next]."""

    def __init__(self, table: list[list[float]]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(table).log())
        self.config = SimpleNamespace(vocab_size=len(table), max_position=8)

    def hidden(self, ids: Tensor) -> Tensor:
        return F.one_hot(ids, self.config.vocab_size).float()

    def head(self, hidden: Tensor) -> Tensor:
        return hidden @ self.table


def test_two_tokens_by_hand() -> None:
    """Token 0 begins a document; p(1 | 0) = 1/2, p(2 | 1) = 1/8: perplexity 4, and 2 bits per byte for two bytes."""
    bigram = Bigram([[0.25, 0.5, 0.25], [0.5, 0.375, 0.125], [1 / 3, 1 / 3, 1 / 3]])
    nats = score_ids(bigram, [[1, 2]], start=0, length=8)  # type: ignore[arg-type]
    assert nats[0] == pytest.approx(math.log(16))
    score = TextScore(nats, [2], [2])
    assert score.perplexity == pytest.approx(4)
    assert score.bits_per_byte == pytest.approx(2)
    summary = score.summary()
    assert summary["tokens"] == 2 and summary["bytes"] == 2 and summary["documents"] == 1


def test_without_a_first_token_the_first_one_is_a_uniform_guess() -> None:
    bigram = Bigram([[0.25, 0.5, 0.25], [0.5, 0.375, 0.125], [1 / 3, 1 / 3, 1 / 3]])
    nats = score_ids(bigram, [[1, 2], []], start=None, length=8)  # type: ignore[arg-type]
    assert nats == [pytest.approx(math.log(3) + math.log(8)), 0.0]


def test_separators_of_a_stream_are_context_and_cost_nothing() -> None:
    bigram = Bigram([[0.25, 0.5, 0.25], [0.5, 0.375, 0.125], [1 / 3, 1 / 3, 1 / 3]])
    nats = score_ids(bigram, [[1], [2, 1]], start=0, between=0, length=8)  # type: ignore[arg-type]
    assert nats == [pytest.approx(math.log(2)), pytest.approx(math.log(4) + math.log(3))]


def test_the_picture_of_windows() -> None:
    assert [(w.begin, w.end, w.first) for w in windows(7, 4, 2)] == [(0, 4, 1), (2, 6, 5), (3, 7, 7)]


@given(st.integers(0, 200), st.integers(1, 40), st.data())
def test_every_token_is_predicted_once_with_enough_context(n: int, length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, length))
    seen = []
    for window in windows(n, length, stride):
        assert 0 <= window.begin < window.first <= window.end <= n
        assert window.end - window.begin == min(n, length)  # also the last one has full context
        for position in range(window.first, window.end + 1):
            assert position - window.begin >= min(position, length - stride + 1)
            seen.append(position)
    assert seen == list(range(1, n + 1))


def test_windows_equal_a_full_forward_when_the_text_fits(model: Transformer, tokenizer: Tokenizer) -> None:
    texts = ["def f(x):\n    return x\n", "白日依山盡", "x"]
    score = score_texts(model, tokenizer, texts)
    for text, nats in zip(texts, score.nats, strict=True):
        ids = [opening_token(tokenizer), *tokenizer.encode(text)]
        with torch.no_grad():
            log_p = model(torch.tensor([ids]))[0].log_softmax(-1)
        want = -sum(float(log_p[i, ids[i + 1]]) for i in range(len(ids) - 1))
        assert nats == pytest.approx(want, rel=1e-4)
    assert score.bytes == [len(text.encode()) for text in texts]


def test_a_document_does_not_depend_on_its_neighbours(model: Transformer, tokenizer: Tokenizer) -> None:
    long, short = "def area(width, height):\n" * 30, "黃河入海流"
    alone = [score_texts(model, tokenizer, [text]).nats[0] for text in (long, short)]
    together = score_texts(model, tokenizer, [short, long, short, long]).nats
    assert together == pytest.approx([alone[1], alone[0], alone[1], alone[0]], rel=1e-4)


def test_windows_of_stride_one_give_every_token_the_longest_context(model: Transformer, tokenizer: Tokenizer) -> None:
    """By hand: each prediction past the first window is made from exactly `length` ids."""
    ids = tokenizer.encode("def area(width, height):\n    return width * height\n")
    start, length = opening_token(tokenizer), 8
    got = score_ids(model, [ids], start=start, length=length, stride=1)[0]
    sequence, want = [start, *ids], 0.0
    with torch.no_grad():
        for position in range(1, len(sequence)):
            context = sequence[max(0, position - length) : position]
            log_p = model(torch.tensor([context]))[0, -1].log_softmax(-1)
            want -= float(log_p[sequence[position]])
    assert got == pytest.approx(want, rel=1e-4)


def test_stream_reads_across_documents(model: Transformer, tokenizer: Tokenizer) -> None:
    texts = ["def f():", "    pass", ""]
    apart, stream = score_texts(model, tokenizer, texts), score_texts(model, tokenizer, texts, stream=True)
    assert stream.tokens == apart.tokens and stream.nats[2] == 0
    assert stream.nats[0] == pytest.approx(apart.nats[0], rel=1e-4)
    assert stream.nats[1] != pytest.approx(apart.nats[1], rel=1e-4)
