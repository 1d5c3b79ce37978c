"""Tools in chats: in the template's own way where it has one that danlu reads, else as text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from danlu.tokenizer.chat import CHATML
from danlu.tokenizer.tools import CallForm, as_text, call_form, for_template
from tests.tokenizer.shared import hermes, small_tokenizer

WEATHER = {
    "type": "function",
    "function": {
        "name": "天气",
        "description": "How is the weather?",
        "parameters": {"type": "object", "properties": {"城市": {"type": "string"}}},
    },
}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": "北京和上海?"},
    {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "天气", "arguments": {"城市": "北京"}}},
            {"id": "c2", "type": "function", "function": {"name": "天气", "arguments": {"城市": "上海"}}},
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "晴"},
    {"role": "tool", "tool_call_id": "c2", "content": "雨"},
]


@pytest.mark.parametrize(
    ("opening", "closing", "between"),
    [
        ("<tool_call>\n", "\n</tool_call>", "\n"),
        ("<tool_call>", "</tool_call>", ""),
        ("<tool_call> ", "</tool_call>", "\n\n"),
    ],
)
def test_the_form_is_found_by_trying(opening: str, closing: str, between: str) -> None:
    tokenizer = small_tokenizer(chat_template=hermes(opening, closing, between))
    form = call_form(tokenizer)
    assert form == CallForm(opening, closing, between)
    assert form.write("天气", {"城市": "北京"}) in tokenizer.render_chat(CONVERSATION, add_generation_prompt=False)
    assert for_template(tokenizer, CONVERSATION, [WEATHER]) == (CONVERSATION, [WEATHER])


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        None,
        "{{ raise_exception('no') }}",
        hermes(opening="[CALL]", closing="[END]"),  # another way of writing
        hermes().replace("tools", "toolz"),  # it does not tell the model of them
        CHATML + "{# tools <tool_call> #}",
    ],
)
def test_templates_without_the_form(template: str | None) -> None:
    assert call_form(small_tokenizer(chat_template=template)) is None


def test_as_text_by_hand() -> None:
    plain = as_text([{"role": "system", "content": "Be kind."}, *CONVERSATION], [WEATHER])
    assert [message["role"] for message in plain] == ["system", "user", "assistant", "user"]
    assert plain[0]["content"].startswith("Be kind.\n\n")
    assert json.dumps(WEATHER["function"], ensure_ascii=False) in plain[0]["content"]
    assert plain[2]["content"] == (
        'I look.\n<tool_call>\n{"name": "天气", "arguments": {"城市": "北京"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "天气", "arguments": {"城市": "上海"}}\n</tool_call>'
    )
    assert plain[3]["content"] == ("<tool_response>\n晴\n</tool_response>\n<tool_response>\n雨\n</tool_response>")
    assert "tool_calls" in CONVERSATION[1], "what was given is not changed"


def test_without_a_system_message_the_tools_make_one() -> None:
    plain = as_text([{"role": "user", "content": "hi"}], [WEATHER])
    assert [message["role"] for message in plain] == ["system", "user"]


def test_calls_of_earlier_turns_are_text_also_when_no_tools_are_offered_now() -> None:
    tokenizer = small_tokenizer()
    messages, tools = for_template(tokenizer, CONVERSATION, [])
    assert tools is None
    text = tokenizer.render_chat(messages, add_generation_prompt=True)
    assert '"上海"' in text and "晴" in text


def test_a_chat_without_tools_is_left_alone() -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert for_template(small_tokenizer(), messages, []) == (messages, None)
