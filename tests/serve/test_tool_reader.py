"""Text to content and calls: the same result however the text is cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.serve.tool_reader import CallReader
from danlu.tokenizer.tools import CallForm

Calls = list[tuple[str, str]]


def read(pieces: list[str], *, text: bool = True, bare: Sequence[str] = ()) -> tuple[str, Calls]:
    """Content and (name, arguments) of all calls, put together as a client does it."""
    reader = CallReader(text=text, bare=bare)
    content, names, arguments, ids = "", [], [], []
    for i, piece in enumerate(pieces):
        more, calls = reader.push(piece, last=i == len(pieces) - 1)
        content += more
        for call in calls:
            if call.name is not None:
                assert call.index == len(names)
                names.append(call.name)
                ids.append(call.id)
                arguments.append("")
            assert call.index == len(names) - 1
            arguments[call.index] += call.arguments
    assert len(set(ids)) == len(names) == reader.calls
    return content, list(zip(names, arguments, strict=True))


def test_by_hand() -> None:
    text = 'Look. \n<tool_call>\n{"name": "天气", "arguments": {"城市": "北}京"}}\n</tool_call>'
    expected = ("Look.", [("天气", '{"城市": "北}京"}')])
    assert read([text]) == expected
    assert read(list(text)) == expected


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('{"name": "f", "arguments": {"a": 1}}', "", [("f", '{"a": 1}')]),
        ('```json\n{\n  "name": "天气",\n  "arguments": {"a": "}"}\n}\n```', "", [("天气", '{"a": "}"}')]),
        ('{"name": "other", "arguments": {}}', '{"name": "other", "arguments": {}}', []),
        ('{"name": "f', '{"name": "f', []),
        ("```python\n" + "x" * 200 + "\n``` ", "```python\n" + "x" * 200 + "\n``` ", []),
        ('so: {"name": "f", "arguments": {}}', 'so: {"name": "f", "arguments": {}}', []),
        ("", "", []),
    ],
)
def test_a_bare_call_is_one_at_the_beginning_and_of_a_known_tool(text: str, content: str, calls: Calls) -> None:
    assert read([text], bare=["f", "天气"]) == (content, calls)
    assert read(list(text) or [""], bare=["f", "天气"]) == (content, calls)
    assert read([text])[1] == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab{}[]"\\<tool_call>/\n月', max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text('a"{', max_size=3), inner, max_size=2),
    max_leaves=4,
)
ARGUMENTS = st.dictionaries(st.text("ab", max_size=2), VALUES, max_size=3)
FORMS = st.sampled_from([CallForm(), CallForm("<tool_call>", "</tool_call>", ""), CallForm(between="\n\n")])


@given(
    st.text("a <to月\n", max_size=8),
    st.lists(st.tuples(st.sampled_from(["f", "天气", "tool_call"]), ARGUMENTS), max_size=3),
    FORMS,
    st.lists(st.integers(0, 400), max_size=12),
)
def test_what_was_written_is_read_however_it_is_cut(
    content: str, calls: list[tuple[str, dict[str, object]]], form: CallForm, places: list[int]
) -> None:
    text = content + form.between.join(form.write(name, arguments) for name, arguments in calls)
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    said, made = read([text[a:b] for a, b in pairwise(edges)])
    assert said == (content.rstrip() if calls else content)
    assert [(name, json.loads(arguments)) for name, arguments in made] == calls
    if calls and not content:
        assert read([text], text=False) == ("", made)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("so it is <tool_", "so it is <tool_", []),
        ("so it is \n", "so it is \n", []),
        ('so <tool_call>\n{"name": "we', "so", []),
        ('<tool_call>\n{"name": "f", "arguments": {"a": "b', "", [("f", '{"a": "b')]),
        ('<tool_call>\n{"name": "f", "arguments": ', "", []),
        ('<tool_call>\n{"name": "f", "arguments": {', "", [("f", "{")]),
    ],
)
def test_an_answer_that_was_cut(text: str, content: str, calls: Calls) -> None:
    assert read([text]) == (content, calls)
    assert read(list(text)) == (content, calls)
