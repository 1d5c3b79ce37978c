from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import UserError
from danlu.data.quality.perplexity import ORDER, NgramModel, _runs, find

ZH = "山高水长，春去秋来。渔舟唱晚，雁过长空。小桥流水人家，古道西风瘦马。孤村落日残霞，轻烟老树寒鸦。"
EN = "The old mill stands by the river. Every spring the water rises and the wheel begins to turn again. "


@pytest.fixture(scope="module")
def model() -> NgramModel:
    return NgramModel.train(
        [ZH * 3, EN * 3, "渔舟唱晚，响穷彭蠡之滨。", "The wheel turns by the water. "], slots=1 << 14
    )


def test_clean_text_is_cheap_and_noise_is_not(model: NgramModel) -> None:
    draw = random.Random(0)
    shuffled = ["".join(draw.sample(text, len(text))) for text in (ZH, EN)]
    zh, en, bad_zh, bad_en, other, again = model.bits_per_byte(
        ["古道西风，小桥流水。", "The river rises by the old mill. ", *shuffled, "qzxj" * 9, ZH[:12] * 30]
    )
    assert zh < bad_zh and en < bad_en and other > 6 and again < zh


def test_every_text_has_a_probability(model: NgramModel) -> None:
    scores = model.bits_per_byte(["丹", "x", "🙂", "\ud800", "a" * 10_000, ""])
    assert np.isfinite(scores[:5]).all() and np.isnan(scores[5])


@settings(max_examples=15, deadline=None)
@given(st.text(alphabet="山水ab 。", max_size=6))
def test_probabilities_of_what_may_follow_sum_to_at_most_one(model: NgramModel, before: str) -> None:
    alphabet = sorted(set(ZH + EN + "响穷彭蠡之滨qz"))
    total = 0.0
    for character in alphabet:
        text = before + character
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        widths = np.array([len(c.encode()) for c in text])
        total += float(model._probabilities(codes, widths)[-1])
    assert 0 < total <= 1.01


def test_counts_by_hand() -> None:
    model = NgramModel.train(["abab"], slots=1 << 10)
    runs = _runs(np.frombuffer("ab".encode("utf-32-le"), dtype=np.uint32))
    count, followers = find(model.tables[1], runs[1])
    assert count.tolist() == [2, 2] and followers[0] == 1  # a is followed by b alone
    assert find(model.tables[1], np.array([12345], np.uint64))[0].tolist() == [0]


def test_chunks_and_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [ZH, EN, ZH[5:], EN[9:]] * 5
    whole = NgramModel.train(texts, slots=1 << 14)
    scores = whole.bits_per_byte([EN + ZH])
    monkeypatch.setattr("danlu.data.quality.perplexity._CHUNK_CHARS", 60)
    assert [t.tolist() for t in NgramModel.train(texts, slots=1 << 14).tables] == [t.tolist() for t in whole.tables]
    assert np.allclose(whole.bits_per_byte([EN + ZH]), scores, atol=1e-4)


def test_memory_is_bounded_by_slots() -> None:
    draw = random.Random(1)
    text = "".join(chr(draw.randrange(0x4E00, 0x9FFF)) for _ in range(20_000))
    model = NgramModel.train([text], slots=1 << 10)
    assert [len(t) for t in model.tables] == [1] + [1 << 10] * ORDER


def test_saving(model: NgramModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    assert np.array_equal(NgramModel.load(tmp_path).bits_per_byte([ZH, EN]), model.bits_per_byte([ZH, EN]))
    with pytest.raises(UserError):
        NgramModel.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no text"):
        NgramModel.train([])
