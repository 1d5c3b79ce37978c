"""Sampling and Grammar say what is wrong with them when they are made."""

from __future__ import annotations

from typing import Any

import pytest

from danlu.core.errors import UserError
from danlu.engine import Grammar, Sampling


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", "5"),
        ("temperature", "hot"),
        ("temperature", None),
        ("seed", 1.5),
        ("n", True),
        ("stop", 5),
        ("stop", None),
        ("stop", {"a": 1}),
        ("stop_before", None),
        ("stop_token_ids", 5),
        ("stop_token_ids", "12"),
        ("logit_bias", [(1, 2)]),
        ("logit_bias", None),
        ("ignore_eos", "no"),
        ("skip_special", None),
        ("grammar", "start: /x/"),
    ],
)
def test_a_value_of_a_wrong_type_is_one_sentence_and_a_hint(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{name} is .* it must be "):
        Sampling(**{name: value})


def test_the_members_of_lists_are_looked_at_too() -> None:
    with pytest.raises(UserError, match="a stop string is 5"):
        Sampling(stop=[5])  # type: ignore[list-item]
    with pytest.raises(UserError, match=r"a stop token is 1.5"):
        Sampling(stop_token_ids=[1.5])  # type: ignore[list-item]
    with pytest.raises(UserError, match="logit_bias has 'a': 1"):
        Sampling(logit_bias={"a": 1})  # type: ignore[dict-item]


@pytest.mark.parametrize("stop", ["a", ["a"], ("a",), {"a"}])
def test_stop_strings_in_any_container(stop: Any) -> None:
    assert Sampling(stop=stop).stop == ("a",)


@pytest.mark.parametrize(
    ("make", "value", "says"),
    [
        (Grammar.regex, 5, "source of a regular expression is 5"),
        (Grammar.lark, None, "source of a grammar is None"),
        (Grammar.regex, "\udcff", "half a character"),
        (Grammar.choice, 5, "a choice is 5"),
        (Grammar.choice, "abc", "a choice is 'abc'"),
        (Grammar.json_schema, [5], "a JSON schema is"),
        (Grammar.json_schema, {"a": object()}, "the JSON schema is no JSON"),
        (lambda kind: Grammar(kind, ""), [], "no kind of grammar"),
    ],
)
def test_a_grammar_of_something_else(make: Any, value: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make(value)
