from __future__ import annotations

import ast
import textwrap

import pytest

from danlu.data.docstrings import Function, functions, rows

SOURCE = textwrap.dedent('''\
    import os


    def area(width, height=1, *, unit="m"):
        """Area of a rectangle.

        Both sides are in `unit`.
        """

        # a comment stays
        return width * height


    class Box:
        """A box is no function."""

        @property
        def volume(self) -> int:
            "Volume of the box in litres."
            text = """keeps
        its indentation"""
            return len(text)

        def short(self):
            """Too short."""
            return 1

        def only_documented(self):
            """This one does nothing but say so."""

    async def fetch(url: str) -> bytes:
        """Fetch the page behind an address."""
        def inner(x):
            """The inner one is a function as well."""
            return x
        return inner(url)

    def one_line(): """A docstring on the line of its function."""; return 1
    ''')


def test_functions_are_taken_apart() -> None:
    found = {function.name: function for function in functions(SOURCE)}
    assert set(found) == {"area", "volume", "fetch", "inner"}
    assert found["area"] == Function(
        "area",
        "function",
        "area(width, height=1, *, unit='m')",
        "Area of a rectangle.\n\nBoth sides are in `unit`.",
        'def area(width, height=1, *, unit="m"):\n    # a comment stays\n    return width * height',
    )
    assert found["volume"].kind == "method" and found["volume"].code.startswith("@property\ndef volume(self)")
    assert found["inner"].code == "def inner(x):\n    return x"
    for function in found.values():
        ast.parse(function.code)
        assert function.docstring not in function.code


def test_rows_are_chosen_by_hash_and_ask_for_both_directions() -> None:
    (function, *_) = functions(SOURCE)
    made = dict(rows("doc", function))
    assert made == dict(rows("doc", function))
    assert set(made) == {"write", "describe"}
    ask, answer = made["write"]
    assert ask["role"] == "user" and "area(width, height=1, *, unit='m')" in ask["content"]
    assert "Both sides are in" in ask["content"]
    assert answer == {"role": "assistant", "content": f"```python\n{function.code}\n```"}
    assert function.code in made["describe"][0]["content"] and made["describe"][1]["content"] == function.docstring
    assert len({rows_[0]["content"] for i in range(40) for rows_ in [dict(rows(str(i), function))["write"]]}) == 4


@pytest.mark.parametrize("source", ["def f(:", "print 'two'", "x\0y", "(" * 5_000])
def test_what_is_not_python_is_a_syntax_error(source: str) -> None:
    with pytest.raises(SyntaxError):
        list(functions(source))
