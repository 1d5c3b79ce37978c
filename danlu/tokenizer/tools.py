"""Tools in a chat: how a model is told of them, how it writes a call, how it is told the result.

    tools     [{"type": "function", "function": {"name", "description", "parameters": a JSON schema}}]
    calls     {"role": "assistant", "content": "...", "tool_calls": [{"id", "type": "function",
                                                                     "function": {"name", "arguments": {...}}}]}
    results   {"role": "tool", "tool_call_id": "...", "content": "..."}

A template that was made for tools renders all three in the model's own way, and the model writes a call as it was
trained to. Most open models share one way of writing, and it is the one that danlu reads and enforces:

    <tool_call>
    {"name": "weather", "arguments": {"city": "北京"}}
    </tool_call>

Whether a template writes so is not guessed from its source but tried: two calls are rendered and looked for
(`call_form`), and the blank space around them is taken as found.

Every other template, one without tools or one with another way of writing, is given the same three as plain text
(`as_text`): the tools and the way of writing behind the system message, calls in the assistant's turn, results in the
user's. So any chat model can be asked, and a grammar (engine/structured.py) keeps it to the form. What that cannot
give is the training: such a model calls well as often as it understands its instructions. And its results are words
of the user's turn, which a user can write as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from danlu.core.errors import UserError

if TYPE_CHECKING:
    from danlu.tokenizer.tokenizer import Tokenizer

Message = dict[str, Any]

TAG = "<tool_call>"
INSTRUCTIONS = """You can use tools. Each line between these tags describes one, with a JSON schema of its arguments:
<tools>
{tools}
</tools>
To use a tool, write its name and its arguments in exactly this form, and nothing after it:
{call}
You then get what the tool answers, between <tool_response> tags."""


@dataclass(frozen=True)
class CallForm:
    """The text around the JSON of a call, and between two calls."""

    opening: str = TAG + "\n"
    closing: str = "\n</tool_call>"
    between: str = "\n"

    def write(self, name: str, arguments: Any) -> str:
        """The text of one call."""
        call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
        return self.opening + call + self.closing


PLAIN = CallForm()  # of models whose template has none


def call_form(tokenizer: Tokenizer) -> CallForm | None:
    """How this tokenizer's template writes calls; None when it does not, or in another way than danlu reads."""
    try:
        text = tokenizer.render_chat(_PROBE, add_generation_prompt=True, tools=[_PROBE_TOOL])
    except UserError:
        return None
    found = _PROBE_CALLS.search(text)
    if found is None or "probe_result" not in text or "probe_about" not in text:
        return None
    return CallForm(found["opening"], found["closing"], found["between"])


def for_template(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Message]
) -> tuple[list[Message], list[Message] | None]:
    """Messages and tools as `encode_chat` takes them: as they are for a template made for tools, else all as text."""
    if not tools and not any(message["role"] == "tool" or "tool_calls" in message for message in messages):
        return list(messages), None
    if call_form(tokenizer) is not None:
        return list(messages), list(tools)
    return as_text(messages, tools), None


def as_text(messages: Sequence[Message], tools: Sequence[Message]) -> list[Message]:
    """The conversation with system, user and assistant messages only, and nothing in them but text.

    >>> as_text([{"role": "tool", "tool_call_id": "c1", "content": "rain"}], [])
    [{'role': 'user', 'content': '<tool_response>\\nrain\\n</tool_response>'}]
    """
    plain: list[Message] = []
    previous = ""
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            content = f"<tool_response>\n{content}\n</tool_response>"
            if previous == "tool":  # results of calls that were made together are one turn
                plain[-1]["content"] += "\n" + content
                continue
        for call in message.get("tool_calls", ()):
            written = PLAIN.write(call["function"]["name"], call["function"]["arguments"])
            content += PLAIN.between + written if content else written
        plain.append({"role": "user" if role == "tool" else role, "content": content})
        previous = role
    if tools:
        lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        text = INSTRUCTIONS.format(
            tools=lines, call=f'{PLAIN.opening}{{"name": ..., "arguments": {{...}}}}{PLAIN.closing}'
        )
        if plain and plain[0]["role"] == "system":
            plain[0]["content"] += "\n\n" + text
        else:
            plain.insert(0, {"role": "system", "content": text})
    return plain


def _probe_call(number: int) -> Message:
    function = {"name": "probe_tool", "arguments": {"x": number}}
    return {"id": f"probe{number:04d}", "type": "function", "function": function}  # nine characters: Mistral wants that


_PROBE_TOOL: Message = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "probe_about",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer", "description": "a number"}}},
    },
}
_PROBE: list[Message] = [
    {"role": "user", "content": "probe_question"},
    {"role": "assistant", "content": "", "tool_calls": [_probe_call(1), _probe_call(2)]},
    {"role": "tool", "tool_call_id": "probe0001", "content": "probe_result"},
    {"role": "tool", "tool_call_id": "probe0002", "content": "probe_result"},
]
_PROBE_CALLS = re.compile(
    rf'(?P<opening>{TAG}\s*){{"name": "probe_tool", "arguments": {{"x": 1}}}}(?P<closing>\s*</tool_call>)'
    r'(?P<between>\s*)(?P=opening){"name": "probe_tool", "arguments": {"x": 2}}(?P=closing)'
)
