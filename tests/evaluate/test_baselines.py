"""Baselines: the n-gram's worked example and its probabilities, xz against the xz program's own format."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.evaluate.baselines import ByteNgram, xz_bits_per_byte


def test_worked_example() -> None:
    ngram = ByteNgram(["abab"], order=2)
    p0 = (2 + 3 / 256) / 8
    assert ngram.distribution(b"a")[ord("b")] == pytest.approx((2 + p0) / 3)
    assert (2 + p0) / 3 == pytest.approx(0.7505, abs=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.text(max_size=12), st.integers(1, 8))
def test_bits_are_the_distribution_byte_by_byte(texts: list[str], text: str, order: int) -> None:
    """The vectorised path and the one that walks histories agree, and probabilities sum to one."""
    ngram = ByteNgram(texts, order)
    data = text.encode("utf-8", "replace")
    want = 0.0
    for at, byte in enumerate(data):
        p = ngram.distribution(data[:at])
        assert p.sum() == pytest.approx(1)
        want -= math.log2(p[byte])
    assert ngram.bits([text, text]) == pytest.approx([want, want])


def test_it_learns_and_longer_histories_help() -> None:
    generator = random.Random(0)
    words = ["alpha ", "beta ", "gamma ", "白日 ", "黃河 "]
    texts = ["".join(generator.choice(words) for _ in range(200)) for _ in range(8)]
    size = len(texts[-1].encode())
    bits = [float(ByteNgram(texts[:-1], order).bits(texts[-1:])[0]) / size for order in (1, 3, 6)]
    assert 8 > bits[0] > bits[1] > bits[2]
    assert bits[2] < 1.2 * math.log2(5) / (size / 200)  # the entropy of the source, and a little for learning it


def test_writing_follows_the_training_text_and_ends_where_it_ends() -> None:
    ngram = ByteNgram(["def f(): pass"] * 50)
    assert ngram.write("def", 100, seed=0) == " f(): pass"
    assert ngram.write("def", 4, seed=0) == " f()"


def test_an_empty_model_is_uniform() -> None:
    assert ByteNgram([]).bits(["ab"])[0] == pytest.approx(16)
    assert np.allclose(ByteNgram([]).distribution(b"x"), 1 / 256)


def test_xz_finds_repetition_and_not_noise() -> None:
    generator = random.Random(0)
    noise = "".join(chr(generator.randrange(32, 127)) for _ in range(20_000))
    assert xz_bits_per_byte(["abcdefgh" * 5000]) < 0.1
    assert math.log2(95) < xz_bits_per_byte([noise]) < 7.2
    assert xz_bits_per_byte([]) == 0
