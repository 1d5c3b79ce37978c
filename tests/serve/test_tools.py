"""What a request may say of tools: honoured, or refused by the name of the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from danlu.serve.protocol import ChatRequest
from danlu.serve.tools import MAX_CALLS, MAX_TOOLS
from danlu.serve.wire import ApiError, parse_request


def tool(name: str = "weather", **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def called(id: str = "c1", arguments: Any = "{}") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}}


CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
USER = CHAT["messages"][0]
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "sun"}


def parse(**fields: Any) -> ChatRequest:
    return parse_request(ChatRequest, json.dumps(CHAT | fields).encode())


def test_which_tools_may_be_called() -> None:
    tools = [tool("a"), tool("b")]

    def asked(**fields: Any) -> tuple[list[str], bool, int]:
        request = parse(tools=tools, **fields)
        return [t.function.name for t in request.callable_tools], request.must_call, request.most_calls

    assert asked() == asked(tool_choice="auto") == asked(tool_choice=None) == (["a", "b"], False, MAX_CALLS)
    assert asked(tool_choice="required") == (["a", "b"], True, MAX_CALLS)
    assert asked(tool_choice="required", parallel_tool_calls=False) == (["a", "b"], True, 1)
    assert asked(tool_choice=named("b")) == (["b"], True, 1)
    assert asked(tool_choice="none")[0] == []
    assert parse().callable_tools == parse(tool_choice="none").callable_tools == []


def test_a_tool_may_be_called_as_a_word() -> None:
    request = parse(tools=[tool("none"), tool("b")], tool_choice=named("none"))
    assert [t.function.name for t in request.callable_tools] == ["none"] and request.must_call


def test_the_schema_of_the_arguments() -> None:
    properties = {"city": {"type": "string", "default": None}}

    def schema(parameters: dict[str, Any] | None) -> dict[str, Any]:
        request = parse(tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])
        assert request.tools[0].plain()["function"].get("parameters") == parameters, "the model sees what was sent"
        return request.tools[0].function.arguments_schema

    closed = {"type": "object", "properties": properties, "additionalProperties": False}
    assert schema({"properties": properties}) == schema({"type": "object", "properties": properties}) == closed
    assert schema(None) == {"type": "object", "properties": {}, "additionalProperties": False}
    assert schema({"type": "object"}) == {"type": "object"}
    for more in ({"additionalProperties": True}, {"allOf": [{"required": ["city"]}]}):
        open_ = {"type": "object", "properties": properties, **more}
        assert schema(open_) == open_


def test_messages_as_templates_take_them() -> None:
    assistant = {"role": "assistant", "content": None, "tool_calls": [called(arguments='{"城市": "北京"}')]}
    request = parse(messages=[USER, assistant, RESULT])
    assert [message.plain() for message in request.messages] == [
        USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [called() | {"function": {"name": "weather", "arguments": {"城市": "北京"}}}],
        },
        RESULT,
    ]


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": []}, "tools", "at least 1 item"),
    ({"tools": [tool(f"t{i}") for i in range(MAX_TOOLS + 1)]}, "tools", "at most 128"),
    ({"tools": [{}]}, "tools[0].type", "missing"),
    ({"tools": ["weather"]}, "tools[0]", "JSON object"),
    ({"tools": [tool() | {"type": "custom"}]}, "tools[0].type", "function"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
    ({"tools": [tool(""), tool()]}, "tools[0].function.name", "pattern"),
    ({"tools": [tool("a b")]}, "tools[0].function.name", "pattern"),
    ({"tools": [tool('a", "')]}, "tools[0].function.name", "pattern"),
    ({"tools": [tool(), tool("x"), tool()]}, "tools[2].function.name", '"weather"'),
    ({"tools": [tool(type="string")]}, "tools[0].function.parameters", 'not "string"'),
    ({"tools": [tool() | {"strict": True}]}, "tools[0].strict", "unknown field"),
    ({"tools": [tool()], "tool_choice": "always"}, "tool_choice", '"required"'),
    ({"tools": [tool()], "tool_choice": {"type": "function"}}, "tool_choice", '"required"'),
    ({"tools": [tool()], "tool_choice": {"type": "allowed_tools"}}, "tool_choice", '"required"'),
    ({"tools": [tool()], "tool_choice": named("wether")}, "tool_choice", 'did you mean "weather"?'),
    ({"tool_choice": "auto"}, "tool_choice", 'needs "tools"'),
    ({"tool_choice": named("weather")}, "tool_choice", 'needs "tools"'),
    ({"parallel_tool_calls": False}, "parallel_tool_calls", 'needs "tools"'),
    ({"tools": [tool()], "parallel_tool_calls": 1}, "parallel_tool_calls", "boolean"),
    ({"messages": [USER | {"tool_calls": [called()]}]}, "messages[0].tool_calls", "assistant"),
    ({"messages": [USER | {"tool_call_id": "c1"}]}, "messages[0].tool_call_id", "only there"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "needed"),
    ({"messages": [USER, RESULT]}, "messages[1].tool_call_id", "no call"),
    ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages[0].tool_calls", "at least 1"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content", "missing"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [called(arguments='{"a": ')]}]},
        "messages[0].tool_calls[0].function.arguments",
        "JSON text of an object",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [called(arguments={"a": 1})]}]},
        "messages[0].tool_calls[0].function.arguments",
        "JSON text of an object",
    ),
    ({"priority": 1.5}, "priority", "integer"),
    ({"priority": 2**31}, "priority", "less than"),
]


@pytest.mark.parametrize(("fields", "param", "says"), REFUSED)
def test_refusals_name_the_field_and_say_why(fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    assert caught.value.status == 400
    assert caught.value.param == param
    assert says in caught.value.message
