"""Chats: messages to text, to ids, and to the tokens a model has to learn.

A model sees one row of tokens. A *template* (Jinja, in `tokenizer_config.json`, as everywhere in the Hugging Face
world) says how messages become that row:

    [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]

    <|im_start|>user\\n2+2?<|im_end|>\\n<|im_start|>assistant\\n4<|im_end|>\\n
                                                             1 1                  mask of encode_chat_with_mask

Three rules hold here, and training, evaluation and serving all come through this file:

**A template is a stranger's program.** It runs in Jinja's sandbox, and what it cannot do is a sentence for the
user, not a traceback.

**A message is text.** A user who types <|im_end|> gets those letters, not the token: before rendering, such a
string in a message is broken by a code point that Unicode reserves for internal use (U+FDD0 to U+FDEF), and after
splitting the result at the real special tokens it is put together again and encoded as text. An assistant's own
markup that is not flagged special (<think>, <tool_call>) is left alone: it is how templates recognise it.

**The mask follows what happens at inference.** The prompt of turn i is the rendering of the messages before it
with the generation prompt; what the model must produce is what the full rendering has beyond that, up to and
with the token that ends the turn. That works when the one rendering is a prefix of the other. Where a template
rewrites history (Qwen3 drops old thoughts) it is not, and there is an error instead of a wrong mask. A template
with {% generation %} tags says itself which part is the assistant's, and then that is taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from danlu.core.errors import UserError

if TYPE_CHECKING:
    from danlu.tokenizer.tokenizer import Tokenizer

Message = dict[str, Any]
Span = tuple[int, int]

# The template of danlu's own models: ChatML, no hidden system prompt, roles as they come.
CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- endif %}"
)

_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


# ---- messages to text


def render_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool, tools: list[Any] | None = None
) -> str:
    """The text of a conversation. Raises UserError when there is no template, or it refuses these messages."""
    return _render(tokenizer, messages, tools, add_generation_prompt, _environment())


def check_template(source: str) -> None:
    """Raises UserError when the template is not valid Jinja."""
    _compile(_environment(), source)


def pick_template(value: Any) -> str | None:
    """`chat_template` of the config: a string, or (older files) a list of {"name", "template"}."""
    if isinstance(value, list):
        named = {entry["name"]: entry["template"] for entry in value}
        value = named.get("default") or next(iter(named.values()), None)
    return value or None


def _render(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: list[Any] | None, prompt: bool, environment: Any
) -> str:
    import jinja2

    source = tokenizer.chat_template
    if source is None:
        raise UserError(
            "this tokenizer has no chat template, so it cannot hold a conversation",
            "use an instruction-tuned model, or complete plain text with `danlu generate`",
        )
    if tools and "tools" not in source:
        raise UserError("the chat template of this model knows no tools", "leave the tools out or use another model")
    _check_messages(messages)
    special = {role: token for role in _ROLES if (token := tokenizer.special_token(role)) is not None}
    try:
        return str(
            _compile(environment, source).render(
                messages=messages, tools=tools or None, documents=None, add_generation_prompt=prompt, **special
            )
        )
    except _Refused as error:
        raise UserError(f"the chat template refuses these messages: {error}", "change the messages") from None
    except (jinja2.TemplateError, TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:
        raise UserError(
            f"the chat template fails on these messages ({type(error).__name__}: {error})",
            'each message needs "role" and a text as "content"',
        ) from None


def _check_messages(messages: Sequence[Message]) -> None:
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise UserError(f"message {i} has no role", '{"role": "user", "content": "..."}')


class _Refused(Exception):
    """Raised by a template through raise_exception()."""


def _raise_exception(message: str) -> None:
    raise _Refused(message)


def _to_json(value: Any, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Jinja's own filter escapes HTML characters and Chinese; models were trained without that."""
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


@lru_cache(maxsize=4)
def _environment(opening: str = "", closing: str = "") -> Any:
    """A sandbox with the names that Hugging Face gives to templates.

    The body of a {% generation %} block is put between `opening` and `closing`.
    """
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

        def mark(self, caller: Any) -> str:
            return f"{opening}{caller()}{closing}"

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


@lru_cache(maxsize=32)
def _compile(environment: Any, source: str) -> Any:
    import jinja2

    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(
            f"the chat template is broken at its line {error.lineno} ({error.message})",
            "mend chat_template (it lies in tokenizer_config.json)",
        ) from None


# ---- messages to ids


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool, tools: list[Any] | None = None
) -> list[int]:
    """Ids of a conversation; special strings inside messages and tools stay text."""
    guard, messages, tools = _guard(tokenizer, messages, tools)
    text = render_chat(tokenizer, messages, add_generation_prompt=add_generation_prompt, tools=tools)
    return _encode_rendered(tokenizer, text, guard)


def encode_chat_with_mask(
    tokenizer: Tokenizer, messages: Sequence[Message], *, tools: list[Any] | None = None
) -> tuple[list[int], list[int]]:
    """Ids of a whole conversation, and a mask of the same length: 1 where the assistant speaks.

    The text is encoded in parts that end where an assistant's turn begins, as at inference, where the prompt is
    encoded before the answer exists. Without an assistant message the mask is all 0.

    Raises UserError when the template's rendering of earlier messages changes with later ones.
    """
    guard, messages, tools = _guard(tokenizer, messages, tools)
    if re.search(r"{%-?\s*generation\b", tokenizer.chat_template or ""):
        text, spans = _tagged_spans(tokenizer, messages, tools)
    else:
        text, spans = _prefix_spans(tokenizer, messages, tools)
    ids: list[int] = []
    mask: list[int] = []
    end = 0
    for start, stop in spans:
        prompt = _encode_rendered(tokenizer, text[end:start], guard)
        answer = _encode_rendered(tokenizer, text[start:stop], guard)
        ids += prompt + answer
        mask += [0] * len(prompt) + _mask_answer(answer, tokenizer.stop_ids)
        end = stop
    rest = _encode_rendered(tokenizer, text[end:], guard)
    return ids + rest, mask + [0] * len(rest)


def _mask_answer(answer: list[int], stop_ids: frozenset[int]) -> list[int]:
    """1 up to the token that ends the turn; what the template writes after it is not the model's to say."""
    last = max((i for i, token in enumerate(answer) if token in stop_ids), default=len(answer) - 1)
    return [1] * (last + 1) + [0] * (len(answer) - last - 1)


def _prefix_spans(tokenizer: Tokenizer, messages: Sequence[Message], tools: list[Any] | None) -> tuple[str, list[Span]]:
    """The rendered text and the character range of each assistant turn, by rendering the messages before it."""
    text = render_chat(tokenizer, messages, add_generation_prompt=False, tools=tools)
    spans: list[Span] = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render_chat(tokenizer, messages[:i], add_generation_prompt=True, tools=tools)
        turn = render_chat(tokenizer, messages[: i + 1], add_generation_prompt=False, tools=tools)
        if not (turn.startswith(prompt) and text.startswith(turn)):
            raise UserError(
                f"the chat template renders the messages up to number {i} otherwise when more follow, "
                "so the assistant's tokens cannot be told",
                "keep only the last assistant turn of each row, or put {% generation %} tags into the template",
            )
        spans.append((len(prompt), len(turn)))
    return text, spans


def _tagged_spans(tokenizer: Tokenizer, messages: Sequence[Message], tools: list[Any] | None) -> tuple[str, list[Span]]:
    """The same from the template's own {% generation %} tags."""
    opening, closing = _unused(messages, tools, 3)[1:]  # the first one is the guard's
    marked = _render(tokenizer, messages, tools, False, _environment(opening, closing))
    text = ""
    spans: list[Span] = []
    for i, part in enumerate(re.split(f"[{opening}{closing}]", marked)):
        if i % 2:
            spans.append((len(text), len(text) + len(part)))
        text += part
    return text, spans


# ---- keeping messages text


def _guard(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: list[Any] | None
) -> tuple[str, list[Message], list[Any] | None]:
    """Break special strings in messages and tools with a character that occurs nowhere in them.

    Returns (that character, or "" when nothing had to be broken; messages; tools).
    """
    special = {token for token, i in tokenizer.control_tokens.items() if i in tokenizer.special_ids}
    everywhere, outside = _pattern(frozenset(special)), _pattern(frozenset(tokenizer.control_tokens))
    mark = _unused(messages, tools, 1)[0]
    _check_messages(messages)

    def clean(value: Any, pattern: re.Pattern[str] | None) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda m: m[0][:1] + mark + m[0][1:], value) if pattern else value
        if isinstance(value, dict):
            return {clean(k, pattern): clean(v, pattern) for k, v in value.items()}
        return [clean(v, pattern) for v in value] if isinstance(value, (list, tuple)) else value

    guarded = [clean(m, everywhere if m["role"] == "assistant" else outside) for m in messages]
    guarded_tools = clean(tools, outside)
    touched = guarded != list(messages) or guarded_tools != tools
    return mark if touched else "", guarded, guarded_tools


def _unused(messages: Sequence[Message], tools: list[Any] | None, n: int) -> list[str]:
    """`n` noncharacters that occur nowhere in the input: the same ones for the same input."""
    text = json.dumps([list(messages), tools], ensure_ascii=False, default=str)
    free = [character for character in _NONCHARACTERS if character not in text]
    if len(free) < n:
        raise UserError("the messages use all of Unicode's internal code points U+FDD0 to U+FDEF", "remove them")
    return free[:n]


def _encode_rendered(tokenizer: Tokenizer, text: str, guard: str) -> list[int]:
    """Ids of rendered text: special strings are tokens, those with the guard inside them are text."""
    pattern = _pattern(frozenset(tokenizer.control_tokens))
    if not guard or guard not in text or pattern is None:
        return tokenizer.encode(text, special=True)
    ids: list[int] = []
    end = 0
    for match in pattern.finditer(text):
        ids += _encode_part(tokenizer, text[end : match.start()], guard)
        ids.append(tokenizer.control_tokens[match[0]])
        end = match.end()
    return ids + _encode_part(tokenizer, text[end:], guard)


def _encode_part(tokenizer: Tokenizer, text: str, guard: str) -> list[int]:
    return tokenizer.encode(text.replace(guard, "")) if text else []


@lru_cache(maxsize=32)
def _pattern(tokens: frozenset[str]) -> re.Pattern[str] | None:
    """Matches any of the tokens, the longest first."""
    ordered = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None
