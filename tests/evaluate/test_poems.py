"""Poems: form and rhyme by hand, chance as a sum, copies found."""

from __future__ import annotations

import pytest

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.data.document import Document, read_documents
from danlu.evaluate.baselines import ByteNgram
from danlu.evaluate.poems import (
    drop_last_line,
    is_regular,
    judge,
    judge_poems,
    look_through,
    rhyme,
    rhyming_pairs,
    split_title,
    verse_lines,
)
from danlu.model.transformer import Transformer
from danlu.tokenizer.tokenizer import Tokenizer

STORK = "登鸛雀樓\n白日依山盡，黃河入海流。\n欲窮千里目，更上一層樓。"
LINES = ["白日依山盡", "黃河入海流", "欲窮千里目", "更上一層樓"]


def test_lines_and_title() -> None:
    title, body = split_title(STORK)
    assert title == "登鸛雀樓" and verse_lines(body) == LINES
    assert drop_last_line("白日依山盡，黃河入") == "白日依山盡，"
    assert drop_last_line("白日") == ""


@pytest.mark.parametrize(
    ("lines", "regular"),
    [
        (LINES, True),
        (["少小離家老大回"] * 8, True),
        (LINES[:2], False),  # a couplet
        ([*LINES, "白日依山盡"], False),  # odd
        ([*LINES[:3], "更上一層"], False),  # unequal
        (["白日依山"] * 4, False),  # four characters
        (["白日依山x"] * 4, False),
        ([], False),
    ],
)
def test_form(lines: list[str], regular: bool) -> None:
    assert is_regular(lines) is regular


def test_rhymes() -> None:
    assert rhyming_pairs(LINES) == [("流", "樓")]
    assert rhyme("流") == rhyme("樓") == "ou"
    assert rhyme("天") == rhyme("山") == "an"  # the medial i is no part of a rhyme
    assert rhyme("知") != rhyme("衣")  # both are written i
    assert rhyme("東") == rhyme("風")
    assert rhyme("x") == "x"


def test_judge_by_hand() -> None:
    good = LINES
    no_rhyme = [*LINES[:3], "白日依山盡"]
    result = judge([good, no_rhyme, LINES[:2]], frozenset({"黃河入海流"}))
    assert result["regular"]["value"] == pytest.approx(2 / 3)
    assert (result["rhyme"]["value"], result["rhyme"]["n"]) == (0.5, 2)
    assert (result["copied"]["value"], result["copied"]["n"]) == (0.3, 10)


def test_chance_is_the_sum_of_squares() -> None:
    """Even-line ends 流 樓 (ou) of one poem and 盡 盡 (en) of another: 0.5^2 + 0.5^2."""
    other = "x\n" + "，".join(["更上一層樓", "白日依山盡"] * 2)
    known, chance = look_through([_poem(STORK), _poem(other)], {"黃河入海流", "春眠不覺曉"})
    assert chance == pytest.approx(0.5)
    assert known == {"黃河入海流"}


def test_rows(corpus: Artifact, model: Transformer, tokenizer: Tokenizer) -> None:
    documents = list(read_documents(corpus, "validation"))
    ngram = ByteNgram([document.text for document in read_documents(corpus, "train")])
    result = judge_poems(
        model, tokenizer, documents, lambda: read_documents(corpus, "train"), ngram, cases=2, max_tokens=30
    )
    assert set(result["rows"]) == {"ngram", "model", "oracle"}
    oracle = result["rows"]["oracle"]
    assert oracle["regular"]["value"] == oracle["rhyme"]["value"] == oracle["copied"]["value"] == 1
    assert result["rows"]["model"]["regular"]["value"] == 0  # random weights
    assert result["rhyme_by_chance"] == 1  # the training poems are one poem


def test_no_poems_is_said(model: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="no poems"):
        judge_poems(model, tokenizer, [Document("d", "def f():", "code:python", "t")], list, None)


def _poem(text: str) -> Document:
    return Document(text[:4], text, "zh", "t")
