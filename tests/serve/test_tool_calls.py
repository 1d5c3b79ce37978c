"""Tool calls, with the official client, from models of random weights: only the form can come from us, and it does.

Three vocabularies: without tags (the tools are told as text), and with tags that are tokens, flagged special or not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI

from danlu.engine import Engine, Grammar, Sampling
from danlu.serve.tool_reader import CallReader
from danlu.serve.tools import Function
from danlu.tokenizer.tools import PLAIN, TAG
from tests.serve import tiny

pytest.importorskip("llguidance")

VOCABULARIES = ["letters", "tokens", "special"]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "城市": {"type": "string", "maxLength": 6},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["城市", "days"],
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "description": "天气", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "time"}},
]
SCHEMAS = {
    "weather": WEATHER | {"additionalProperties": False},
    "time": {"type": "object", "additionalProperties": False},
}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "床前明月光"}], "tools": TOOLS, "max_tokens": 400}


def engine(vocabulary: str) -> Engine:
    if vocabulary == "letters":
        return tiny.tiny_engine()
    tokenizer = tiny.tool_tokenizer(special=vocabulary == "special")
    return Engine((tiny.tiny_model(tokenizer), tokenizer), max_sequences=4, kv_bytes=64 << 20)


@pytest.fixture(scope="module")
def engines() -> dict[str, Engine]:
    return {name: engine(name) for name in VOCABULARIES}


@pytest.fixture(scope="module")
def client(engines: dict[str, Engine]) -> Iterator[OpenAI]:
    with tiny.in_thread(engines) as url:
        yield OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def ask(client: OpenAI, model: str, **fields: Any) -> Any:
    return client.chat.completions.create(model=model, **CHAT | fields)


def keeps(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value keeps a JSON schema, of the keywords that are used here."""
    if "anyOf" in schema:
        return any(keeps(value, one) for one in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int}
    if type(value) is not kinds[schema["type"]]:
        return False
    if isinstance(value, dict):
        known = schema.get("properties", {})
        assert schema["additionalProperties"] is False
        return (
            set(schema.get("required", ())) <= value.keys() <= known.keys()
            and all(keeps(item, known[name]) for name, item in value.items())
        )  # fmt: skip
    if isinstance(value, list):
        return len(value) <= schema["maxItems"] and all(keeps(item, schema["items"]) for item in value)
    if isinstance(value, str):
        return len(value) <= schema.get("maxLength", 99) and bool(re.search(schema.get("pattern", ""), value))
    return type(value) is not int or schema["minimum"] <= value <= schema["maximum"]


def check(calls: Any) -> None:
    for call in calls:
        assert call.type == "function" and call.id
        assert keeps(json.loads(call.function.arguments), SCHEMAS[call.function.name])


@pytest.mark.parametrize("model", VOCABULARIES)
def test_a_required_call_always_parses(client: OpenAI, model: str) -> None:
    names, ids = set(), set()
    answer = ask(client, model, tool_choice="required", parallel_tool_calls=False, seed=1, n=8)
    assert len(answer.choices) == 8
    for choice in answer.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = choice.message.tool_calls
        check([call])
        names.add(call.function.name)
        ids.add(call.id)
    assert len(ids) == 8
    assert names == {"weather", "time"}, "the choice among the tools is the model's"


@pytest.mark.parametrize("model", VOCABULARIES)
def test_a_named_tool_is_called_once(client: OpenAI, model: str) -> None:
    choice = {"type": "function", "function": {"name": "time"}}
    for seed in range(3):
        answer = ask(client, model, tool_choice=choice, seed=seed).choices[0]
        (call,) = answer.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("time", "{}")
        assert answer.finish_reason == "tool_calls"


@pytest.mark.parametrize("model", VOCABULARIES)
@pytest.mark.parametrize("choice", ["required", "auto"])
def test_a_stream_says_what_the_whole_answer_says(client: OpenAI, model: str, choice: str) -> None:
    """Through the client's own accumulation; with "auto" the tag, where it is a token, is made likely."""
    bias = {}
    if choice == "auto" and model != "letters":
        tag = tiny.tool_tokenizer(special=model == "special").token_id(TAG)
        bias = {str(tag): 2.5}
    fields = {"tool_choice": choice, "logit_bias": bias, "seed": 5, "n": 3, "logprobs": True, "max_tokens": 100}
    whole = ask(client, model, **fields)
    with client.chat.completions.stream(model=model, **CHAT | fields) as stream:
        for event in stream:
            if event.type == "chunk":
                for part in event.chunk.choices:
                    assert part.delta.content is None or part.delta.content, "nothing empty is sent"
                    for call in part.delta.tool_calls or ():
                        assert (call.id is None) == (call.function.name is None) == (call.type is None)
        streamed = stream.current_completion_snapshot
    made = 0
    for one, other in zip(whole.choices, streamed.choices, strict=True):
        assert one.finish_reason == other.finish_reason
        assert (one.message.content or "") == (other.message.content or "")
        assert len(one.logprobs.content) == len(other.logprobs.content)
        calls, streamed_calls = one.message.tool_calls or [], other.message.tool_calls or []
        assert [(c.function.name, c.function.arguments) for c in calls] == [
            (c.function.name, c.function.arguments) for c in streamed_calls
        ]
        check(calls if one.finish_reason == "tool_calls" else calls[:-1])
        assert (one.finish_reason == "tool_calls") <= bool(calls)
        made += len(calls)
        if choice == "required":
            assert calls and one.message.content is None
    assert made > 1 or (choice, model) == ("auto", "letters")


@pytest.mark.parametrize("model", ["tokens", "special"])
def test_auto_is_text_then_calls(client: OpenAI, model: str) -> None:
    tag = tiny.tool_tokenizer(special=model == "special").token_id(TAG)
    answer = ask(client, model, logit_bias={str(tag): 3}, parallel_tool_calls=False, seed=0, n=8, max_tokens=150)
    called = [choice for choice in answer.choices if choice.message.tool_calls]
    assert any(choice.message.content for choice in called), "text before the call"
    for choice in answer.choices:
        assert TAG not in (choice.message.content or "")
        assert len(choice.message.tool_calls or ()) <= 1
        if choice.finish_reason == "tool_calls":
            check(choice.message.tool_calls)
    silent = ask(client, model, logit_bias={str(tag): -100}, seed=0, max_tokens=30).choices[0]
    assert silent.message.tool_calls is None and silent.message.content and silent.finish_reason != "tool_calls"


@pytest.mark.parametrize("model", VOCABULARIES)
def test_the_round_trip(client: OpenAI, model: str) -> None:
    """The answer as it came and the result go back; the model may call again or not."""
    first = ask(client, model, tool_choice="required", seed=3, temperature=1.2).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "晴 21°"} for call in first.tool_calls]
    messages = [*CHAT["messages"], first.model_dump(), *results]
    second = ask(client, model, messages=messages, tool_choice="none", max_tokens=8)
    assert second.choices[0].message.tool_calls is None
    third = ask(client, model, messages=messages, tool_choice="required", parallel_tool_calls=False)
    check(third.choices[0].message.tool_calls)
    assert third.usage.prompt_tokens > second.usage.prompt_tokens, "with none the model is not told of the tools"


def test_a_stop_string_ends_text_and_leaves_calls_whole(client: OpenAI) -> None:
    call = ask(client, "tokens", tool_choice="required", parallel_tool_calls=False, seed=2, stop=['"', "}"])
    check(call.choices[0].message.tool_calls)
    bias = {str(tiny.tool_tokenizer(special=False).token_id(TAG)): 3}
    fields = {"logit_bias": bias, "parallel_tool_calls": False, "n": 8, "max_tokens": 150, "seed": 0}
    choices = ask(client, "tokens", stop=['"', "月"], **fields).choices
    for choice in choices:
        assert "月" not in (choice.message.content or "")
        if choice.finish_reason == "tool_calls":
            check(choice.message.tool_calls)
    assert any(choice.message.tool_calls for choice in choices)


def test_too_few_tokens_leave_a_fragment_and_say_so(client: OpenAI) -> None:
    fields = {"tool_choice": {"type": "function", "function": {"name": "weather"}}, "seed": 1}
    whole = ask(client, "tokens", **fields)
    cut = ask(client, "tokens", **fields | {"max_tokens": whole.usage.completion_tokens - 12}).choices[0]
    assert cut.finish_reason == "length"
    arguments = cut.message.tool_calls[0].function.arguments
    assert arguments and whole.choices[0].message.tool_calls[0].function.arguments.startswith(arguments)
    early = ask(client, "tokens", **fields | {"max_tokens": 4}).choices[0]
    assert (early.finish_reason, early.message.tool_calls, early.message.content) == ("length", None, "")


def one_tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"tools": [*TOOLS, one_tool("bad", type="object", minProperties="x")]}, "tools", '"bad" are not understood'),
        ({"tools": [one_tool("f", properties={"x": {"type": "objekt"}})]}, "tools", '"f" are not .*: objekt'),
        ({"tools": [one_tool("f", **{"not": {}})]}, "tools", '"f".*not'),
        ({"response_format": {"type": "json_object"}}, "response_format", "send one"),
        ({"extra_body": {"structured_outputs": {"regex": "a"}}}, "structured_outputs", "send one"),
    ],
)
def test_what_is_wrong_is_a_400_with_its_reason(client: OpenAI, fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says) as caught:
        ask(client, "tokens", **fields)
    assert caught.value.param == param
    check(ask(client, "tokens", tool_choice="required", parallel_tool_calls=False).choices[0].message.tool_calls)


def test_with_none_another_form_is_kept(client: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
    answer = ask(client, "tokens", tool_choice="none", response_format=form)
    assert json.loads(answer.choices[0].message.content) in ("yes", "no")


# --- any schema ---

SCALARS = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "null"},
        {"type": "integer", "minimum": -3, "maximum": 40},
        {"type": "string", "maxLength": 4},
        {"type": "string", "pattern": "^[a-c]{2}[0-9]$"},
        {"enum": ["<tool_call>", "</tool_call>", '"}', "月", 7, None]},
    ]
)
ANY = st.recursive(
    SCALARS,
    lambda inner: (
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 2}, inner)
        | st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner)
        | st.builds(
            lambda properties: {"type": "object", "properties": properties, "additionalProperties": False},
            st.dictionaries(st.sampled_from(["a", "城", 'q"uote', "b c"]), inner, max_size=2),
        )
    ),
    max_leaves=4,
)
PARAMETERS = st.dictionaries(st.sampled_from(["x", "y", "天", "name"]), ANY, max_size=3).flatmap(
    lambda properties: st.sets(st.sampled_from([*properties, "x"])).map(
        lambda wanted: {
            "type": "object",
            "properties": properties,
            "required": sorted(wanted & properties.keys()),
        }
    )
)


@settings(max_examples=15, deadline=None)
@given(
    tools=st.dictionaries(st.sampled_from(["f", "fo", "天气"]), PARAMETERS, min_size=1, max_size=2),
    vocabulary=st.sampled_from(VOCABULARIES),
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.0, 0.7, 2.0]),
)
def test_any_call_of_a_random_model_keeps_its_schema(
    tools: dict[str, Any], vocabulary: str, seed: int, temperature: float
) -> None:
    schemas = {name: Function(name=name, parameters=parameters).arguments_schema for name, parameters in tools.items()}
    grammar = Grammar.tool_calls(PLAIN, schemas, text=False, most=2)
    sampling = Sampling(grammar=grammar, seed=seed, temperature=temperature, max_tokens=2000, skip_special=False)
    twin = engine_beside(vocabulary)
    output = next(iter(twin.generate("床前", sampling)))
    assert output.finish_reason == "stop"
    content, calls = CallReader(text=False).push(output.text, last=True)
    assert content == "" and 1 <= len(calls) <= 2
    for call in calls:
        assert call.name is not None
        assert keeps(json.loads(call.arguments), schemas[call.name])


_TWINS: dict[str, Engine] = {}


def engine_beside(vocabulary: str) -> Engine:
    """One that no server drives."""
    if vocabulary not in _TWINS:
        _TWINS[vocabulary] = engine(vocabulary)
    return _TWINS[vocabulary]
