"""Answers that keep a form: JSON of a schema, a regular expression, one of several texts, any grammar, tool calls.

A parser reads along with the answer and says, before each token, which tokens may come next; all others get the logit
-infinity. What is left is sampled as ever, so the answer is the model's own, within the form:

    logits [V]  --mask of the parser-->  -inf where the form would break  --temperature, top_p, ...-->  token
                                                                                     parser reads the token

The parser and the mask over a vocabulary are llguidance's (an Earley parser over a lexer of derivatives). This file is
the door to it: what may be asked for, in how much time, and what a refusal says.

A form that is complete ends the answer. One that is not when `max_tokens` is reached stays a fragment: finish_reason
"length" says so.
"""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from danlu.core.errors import UserError, need
from danlu.engine.request import Grammar
from danlu.tokenizer.tools import TAG, CallForm

if TYPE_CHECKING:
    from danlu.tokenizer.tokenizer import Tokenizer

MAX_BYTES = 1 << 16  # of a schema or grammar: what is longer is more likely an attack than a form
COMPILE_SECONDS = 10.0
REMEMBERED = 64  # compiled forms


class Matcher:
    """The parser of one answer. Copies are independent."""

    def __init__(self, raw: Any, vocab_size: int) -> None:
        self._raw, self._vocab_size = raw, vocab_size

    def copy(self) -> Matcher:
        return Matcher(self._raw.deep_copy(), self._vocab_size)

    def allowed(self) -> Tensor:
        """bool [V]: the tokens that may come next. When the parser gave up, the end alone, which `accept` refuses."""
        bits = torch.frombuffer(bytearray(self._raw.compute_bitmask()), dtype=torch.uint8)
        wide = (bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1  # the lowest bit is the first token
        return wide.flatten()[: self._vocab_size].bool()

    def accept(self, token: int) -> bool:
        """Read a token; False if it breaks the form."""
        return bool(self._raw.consume_token(token))

    def undo(self, n: int) -> None:
        """Take back the last n tokens."""
        self._raw.rollback(n)

    @property
    def complete(self) -> bool:
        """Nothing can follow any more."""
        return bool(self._raw.is_stopped()) and not self._raw.is_error()

    @property
    def failure(self) -> str:
        """Why the parser gave up, or nothing."""
        return str(self._raw.get_error()) if self._raw.is_error() else ""


class Grammars:
    """Compiles forms for one tokenizer. The vocabulary is read once, at the first one (tenths of a second)."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_ids: frozenset[int]) -> None:
        self._tokenizer, self._vocab_size, self._stop_ids = tokenizer, vocab_size, stop_ids
        self._reader: Any = None
        self._lock = threading.Lock()
        self._known: dict[Grammar, Matcher] = {}  # the last ones, oldest first

    def compile(self, grammar: Grammar) -> Matcher:
        """A parser at the beginning of the form.

        Raises UserError when it is too large, too slow or not understood, or when it has no text but the empty one:
        the model would have nothing to say.
        """
        known = self._known.get(grammar)
        if known is not None:
            return known
        size = len(grammar.source.encode())
        if size > MAX_BYTES:
            raise UserError(f"the {grammar.words} has {size:,} bytes", f"at most {MAX_BYTES:,} are compiled")
        made: list[Any] = []
        worker = threading.Thread(target=lambda: made.append(self._compile(grammar)), daemon=True)
        worker.start()
        worker.join(COMPILE_SECONDS)
        if worker.is_alive():
            raise UserError(f"the {grammar.words} took longer than {COMPILE_SECONDS:.0f} s to compile", "simplify it")
        if isinstance(made[0], Exception):
            raise made[0]
        matcher = Matcher(made[0], self._vocab_size)
        begins = matcher.allowed()
        begins[[self._reader.eos_token, *(token for token in self._stop_ids if token < self._vocab_size)]] = False
        if not begins.any():
            what = "matches the empty text alone" if made[0].is_accepting() else "matches no text"
            raise UserError(f"the {grammar.words} {what}", "it must match at least one character")
        while len(self._known) >= REMEMBERED:
            self._known.pop(next(iter(self._known)), None)
        self._known[grammar] = matcher
        return matcher

    def _compile(self, grammar: Grammar) -> Any:
        """The parser, or the UserError to raise: a thread cannot raise in its caller."""
        try:
            need("llguidance", "structured")
            from llguidance import LLMatcher, LLTokenizer

            with self._lock:
                if self._reader is None:
                    ends = sorted(self._stop_ids) or None
                    self._reader = LLTokenizer(self._tokenizer.to_json(), n_vocab=self._vocab_size, eos_token=ends)
            source = _SOURCES[grammar.kind](grammar.source, self._tokenizer)
            raw = LLMatcher(self._reader, source, log_level=0)
        except UserError as error:
            return error
        except (ValueError, TypeError, LookupError) as error:  # the last two: a source that was not made by `Grammar`
            return UserError(f"the {grammar.words} is not understood: {_first_line(str(error))}")
        if raw.is_error():
            return UserError(f"the {grammar.words} is not understood: {_first_line(raw.get_error())}")
        return raw


# One way to write JSON: a small model given the choice fills a page with blanks.
_ONE_WAY = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def _json_schema(source: str, _: Tokenizer) -> Any:
    from llguidance import LLMatcher

    defaults: Any = _ONE_WAY
    return LLMatcher.grammar_from_json_schema(source, defaults=defaults)


def _regex(source: str, _: Tokenizer) -> Any:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_regex(source)


def _lark(source: str, _: Tokenizer) -> Any:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_lark(source)


def _choice(source: str, tokenizer: Tokenizer) -> Any:
    texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in json.loads(source))
    return _lark(f"start: {texts}", tokenizer)


def _tool_calls(source: str, tokenizer: Tokenizer) -> Any:
    r"""Tool calls as a grammar of Lark. With text allowed, and tags that are tokens (number 7 and 8) of their own:

        start: TEXT | TEXT <[7]> call more{0,15} AFTER? | bare AFTER?
        more: "\n" <[7]> call
        call: "\n{\"name\": \"" (tool_0 | tool_1) "}\n" <[8]>
        tool_0: "weather\", \"arguments\": " arguments_0
        arguments_0: %json {"type": "object", ...}
        bare: (bare_0 | bare_1) /\s{0,8}\}/
        bare_0: /(```(json)?\n)?\{\s{0,8}"name":\s?"weather",\s{0,8}"arguments":\s?/ arguments_0
        TEXT: any text without the tag, and without the beginning of a bare call of a known tool
        AFTER: blank space, or the first words of any text that is no tag

    Where the tag is letters like others, the text before it ends at its first occurrence ("lazy"). A bare call is how a
    model begins that forgets the tag: it answers with the JSON, or with a block of it.

    AFTER lets the model be done with calling. Many end a call with a line break, and without AFTER the line break could
    only lead to another call. With it the answer may end there; or a text begins, which completes the form and ends it.
    """
    asked = json.loads(source)
    form, names = CallForm(**asked["form"]), list(asked["tools"])
    head, tail = form.opening.removeprefix(TAG) + '{"name": "', "}" + form.closing
    rules = {
        "call": f"{_literal(head, tokenizer)} ({_any_of('tool', names)}) {_literal(tail, tokenizer)}",
        "more": f"{_literal(form.between + TAG, tokenizer)} call",
        "AFTER": r"/\s{1,4}|\s{0,4}[^\s<](?s:.{0,12})/",
    }
    for i, (name, schema) in enumerate(asked["tools"].items()):
        rules[f"arguments_{i}"] = _arguments(name, schema)
        rules[f"tool_{i}"] = json.dumps(f'{name}", "arguments": ', ensure_ascii=False) + f" arguments_{i}"
    tag = _literal(TAG, tokenizer)
    calls = f"call more{{0,{asked['most'] - 1}}} AFTER?" if asked["most"] > 1 else "call"
    if not asked["text"]:
        rules["start"] = f"{tag} {calls}"
        return _lark(_rules(rules), tokenizer)
    bare = ""
    no_call = ""
    if asked["bare"]:
        begin = r'(```(json)?\n)?\{\s{0,8}"name":\s?"'
        for i, name in enumerate(names):
            rules[f"bare_{i}"] = rf'/{begin}{re.escape(name)}",\s{{0,8}}"arguments":\s?/ arguments_{i}'
        rules["bare"] = rf"({_any_of('bare', names)}) /\s{{0,8}}\}}/"
        bare = " | bare AFTER?"
        no_call = f' & ~/{begin}({"|".join(map(re.escape, names))})"(?s:.*)/'
    rules["TEXT"] = f"/(?s:.*)/ & ~/(?s:.*){re.escape(TAG)}(?s:.*)/{no_call}"
    if TAG in tokenizer.control_tokens:
        rules["start"] = f"TEXT | TEXT {tag} {calls}{bare}"
    else:
        rules["OPENED"] = f"/(?s:.*){re.escape(TAG)}/{no_call}"
        rules["opened[lazy]"] = "OPENED"
        rules["start"] = f"TEXT | opened {calls}{bare}"
    return _lark(_rules(rules), tokenizer)


def _any_of(kind: str, names: list[str]) -> str:
    return " | ".join(f"{kind}_{i}" for i in range(len(names)))


def _rules(rules: dict[str, str]) -> str:
    return "\n".join(f"{name}: {rule}" for name, rule in rules.items())


def _arguments(name: str, schema: dict[str, Any]) -> str:
    """The arguments of a tool. Raises UserError, naming the tool, for a schema that is refused."""
    from llguidance import LLMatcher

    # No escapes by number: half of a surrogate pair is legal JSON, and no text.
    schema = {**schema, "x-guidance": {**_ONE_WAY, "json_allowed_escapes": 'nrbtf\\"'}}
    refused, messages = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_json_schema(schema))
    if refused:
        raise UserError(f'the parameters of the tool "{name}" are not understood: {_first_line(messages[0])}')
    return f"%json {json.dumps(schema, ensure_ascii=False)}"


def _literal(text: str, tokenizer: Tokenizer) -> str:
    """`text` in Lark, its tags by their number where they are tokens."""
    parts = re.split("(</?tool_call>)", text)
    tokens = tokenizer.control_tokens
    return " ".join(f"<[{tokens[part]}]>" if part in tokens else json.dumps(part) for part in parts if part)


_SOURCES = {
    "json_schema": _json_schema, "regex": _regex, "choice": _choice, "lark": _lark, "tool_calls": _tool_calls,
}  # fmt: skip


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"
