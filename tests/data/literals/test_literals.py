from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data import literals
from danlu.data.literals import LiteralSet

WORDS = ("ignore all", "IGNORE", "忽略以上", "以上", "AKIA", "abab", "babab", "k", "-- x", "{y}z", "K[A`@")


def test_worked_example() -> None:
    assert LiteralSet(WORDS).present("Please Ignore All of it; 请忽略以上") == ("ignore all", "IGNORE", "忽略以上", "以上")
    assert LiteralSet(WORDS).present("") == ()
    assert LiteralSet(()).present("anything") == ()


def test_letters_fold_and_nothing_else_does() -> None:
    assert LiteralSet(("[{`@",)).present("{[`@ [{ @`") == ()  # these differ by the bit that makes letters equal
    assert LiteralSet(("kelvin",)).present("\u212aelvin") == ()  # the sign of Kelvin lower-cases to k


@given(st.text(alphabet="abkAB忽略以上 -x{}yzIGNOREignorall[`@Ł\ud800", max_size=60))
def test_compiled_and_plain_agree(text: str) -> None:
    folded = text.encode("utf-8", "surrogatepass").lower()
    assert LiteralSet(WORDS).present(text) == tuple(word for word in WORDS if word.encode().lower() in folded)


def test_without_a_compiler_the_answer_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "x AKIA babab 以上"
    compiled = LiteralSet(WORDS).present(text)
    monkeypatch.setattr(literals, "_library", lambda: None)
    assert LiteralSet(WORDS).present(text) == compiled == ("以上", "AKIA", "abab", "babab", "k")


def test_a_set_travels_to_another_process() -> None:
    words = LiteralSet(WORDS)
    assert words.present("akia") == ("AKIA", "k")
    assert pickle.loads(pickle.dumps(words)).present("akia") == ("AKIA", "k")
