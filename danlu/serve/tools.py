"""Tools on the wire: what a request offers, which of it may be called, and calls and results in the conversation.

    tools                 [{"type": "function", "function": {"name", "description", "parameters", "strict"}}]
    tool_choice           "auto"        text, or calls behind a text that may be empty; the default
                          "required"    calls, from the first token on
                          {"type": "function", "function": {"name": NAME}}    one call, of this tool
                          "none"        text; the model is not told of the tools
    parallel_tool_calls   false: at most one call in an answer; else at most MAX_CALLS

A call always parses and keeps its tool's schema, with `strict` or without: a grammar allows nothing else. Only an
answer that was cut (finish_reason "length") may end inside one. With "auto" an answer that begins as the JSON of a call
of one of the tools is a call too, tag or not (engine/structured.py); requests with stop strings go without that.

Shapes follow https://platform.openai.com/docs/api-reference/chat/create (tools, tool_choice, messages).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, field_validator

from danlu.serve.wire import FieldError, WireModel

MAX_TOOLS = 128
MAX_CALLS = 16  # in one answer: a small model that repeats itself ends here (not tuned)
# What else a schema may say of the properties it does not name.
_OPEN = {"$ref", "additionalProperties", "allOf", "anyOf", "oneOf", "patternProperties", "unevaluatedProperties"}

ToolName = Annotated[str, Field(pattern=r"^[\w-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=512)]


# --- what is offered ------------------------------------------------------------------------------------------------


class Function(WireModel):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False

    @field_validator("parameters")
    @classmethod
    def _of_an_object(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        if parameters.get("type", "object") != "object":
            raise ValueError(f'must be a schema of "type": "object", not {json.dumps(parameters["type"])}')
        return parameters

    @property
    def arguments_schema(self) -> dict[str, Any]:
        """The schema that a call keeps. Where it lists properties and says no more, a model may not invent others."""
        schema = {"type": "object", **(self.parameters or {"properties": {}})}
        if "properties" in schema and not _OPEN & schema.keys():
            schema["additionalProperties"] = False
        return schema


class Tool(WireModel):
    type: Literal["function"]
    function: Function

    def plain(self) -> dict[str, Any]:
        """As templates take it."""
        function = {name: getattr(self.function, name) for name in ("name", "description", "parameters")}
        return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def check_tools(tools: Sequence[Tool]) -> None:
    """Raises FieldError when two have the same name."""
    names: set[str] = set()
    for i, tool in enumerate(tools):
        if tool.function.name in names:
            raise FieldError(f"tools[{i}].function.name", f'is "{tool.function.name}", as that of another tool')
        names.add(tool.function.name)


# --- which may be called --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NamedTool:
    """A tool_choice that is the name of a tool."""

    name: str


def _tool_choice(value: Any) -> str | NamedTool:
    if value in ("none", "auto", "required"):
        return str(value)
    if isinstance(value, dict) and value.get("type") == "function" and set(value) == {"type", "function"}:
        function = value["function"]
        if isinstance(function, dict) and set(function) == {"name"} and isinstance(function["name"], str):
            return NamedTool(function["name"])
    raise ValueError('must be "none", "auto", "required" or {"type": "function", "function": {"name": "..."}}')


ToolChoice = Annotated[str | NamedTool, PlainValidator(_tool_choice)]


# --- what was called ------------------------------------------------------------------------------------------------


def _arguments(value: Any) -> dict[str, Any]:
    """JSON text, as a call carries it, to the object that it is."""
    try:
        arguments = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise ValueError("must be the JSON text of an object")
    return arguments


class FunctionCall(WireModel):
    name: ToolName
    arguments: Annotated[dict[str, Any], PlainValidator(_arguments)]


class ToolCall(WireModel):
    """A call that the assistant made, as it comes back in a later request."""

    id: CallId
    type: Literal["function"]
    function: FunctionCall
