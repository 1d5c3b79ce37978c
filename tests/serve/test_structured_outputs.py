"""Schemas, expressions and choices over the wire, with the official client."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pytest
from openai import OpenAI

pytest.importorskip("llguidance")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["name", "count"],
    "additionalProperties": False,
}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "床前明月光"}], "seed": 1}


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def test_a_schema_is_kept_streamed_or_not(client: OpenAI) -> None:
    whole = client.chat.completions.create(**CHAT, max_tokens=200, response_format=json_schema(SCHEMA))  # type: ignore
    assert whole.choices[0].finish_reason == "stop"
    value = json.loads(whole.choices[0].message.content)
    assert set(value) == {"name", "count"} and len(value["name"]) <= 6 and 0 <= value["count"] <= 9
    stream = client.chat.completions.create(**CHAT, max_tokens=200, response_format=json_schema(SCHEMA), stream=True)  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole.choices[0].message.content


def test_structured_outputs_in_the_extra_body(client: OpenAI) -> None:
    def ask(form: dict[str, Any]) -> str:
        answer = client.completions.create(
            model="base", prompt="The", max_tokens=60, seed=2, extra_body={"structured_outputs": form}
        )
        return answer.choices[0].text

    assert re.fullmatch("[0-9]{4}-[0-9]{2}", ask({"regex": "[0-9]{4}-[0-9]{2}"}))
    assert ask({"choice": ["yes", "no", "也许"]}) in ("yes", "no", "也许")
    assert set(json.loads(ask({"json": SCHEMA}))) == {"name", "count"}
    assert re.fullmatch("(ab){2}", ask({"grammar": 'start: "ab" "ab"'}))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"response_format": json_schema({"type": "objekt"})}, "Invalid type: objekt"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"extra_body": {"structured_outputs": {"regex": "a(b"}}}, "not understood"),
        ({"extra_body": {"structured_outputs": {"regex": "a", "choice": ["b"]}}}, "exactly one"),
        ({"extra_body": {"structured_outputs": {}}}, "exactly one"),
        ({"extra_body": {"structured_outputs": {"choice": []}}}, "at least one text"),
        (
            {"response_format": {"type": "json_object"}, "extra_body": {"structured_outputs": {"regex": "a"}}},
            "send one",
        ),
    ],
)
def test_what_is_wrong_is_a_400_with_its_reason(client: OpenAI, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        client.chat.completions.create(**CHAT, max_tokens=5, **fields)
    assert client.chat.completions.create(**CHAT, max_tokens=2).usage  # and the server goes on


@pytest.mark.parametrize(
    "form", [{"regex": "a(b"}, {"json": {"type": "objekt"}}, {"grammar": "start: b"}, {"choice": [""]}]
)
def test_a_refusal_names_the_field_that_was_used(client: OpenAI, form: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="base", prompt="The", extra_body={"structured_outputs": form})
    assert refused.value.param == "structured_outputs" and "response_format" not in str(refused.value)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**CHAT, response_format=json_schema({"type": "objekt"}))  # type: ignore[call-overload]
    assert refused.value.param == "response_format"
