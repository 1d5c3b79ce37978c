"""The text of an answer, as it grows, to content and tool calls.

    I look it up.\\n<tool_call>\\n{"name": "weather", "arguments": {"city": "北京"}}\\n</tool_call>
    content       head                                          arguments        head of the next, if one comes

A grammar keeps the model to this form (engine/structured.py), so there is nothing to repair here, only to cut: content
ends before the tag and the blank space in front of it, a call begins when its name is whole, and its arguments are
handed on piece by piece until their last brace. However the text is cut into pieces, the result is the same.

A model that forgets the tag begins its answer with the JSON of the call, or with a block of it. Where the name is that
of a tool, that is a call as well; until it is known, such a beginning is held back.

An answer that ends within a head has no call there; one that ends within the arguments leaves them as they are.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from danlu.tokenizer.tools import TAG

_HEAD = re.compile(r'[^{]*\{\s*"name":\s?"([^"]+)",\s*"arguments":\s?(?=\{)')
KNOWN_BY = 128  # characters: no beginning of a call, with a name of at most 64, is longer


@dataclass
class CallPiece:
    """What a piece of text adds to call number `index`; `id` and `name` come with its first piece."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


class CallReader:
    """Reads one answer. `text`: content may come before the first call; `bare`: tools that may be called bare."""

    def __init__(self, *, text: bool, bare: Sequence[str] = ()) -> None:
        self.calls = 0  # whose name was read
        self._part = "beginning" if text and bare else "content" if text else "head"
        names = "|".join(map(re.escape, bare))
        self._bare = re.compile(rf'(```(json)?\n)?\{{\s*"name":\s?"({names})"')
        self._held = ""
        self._depth = 0  # of braces in the arguments
        self._in_string = self._escaped = False

    def push(self, text: str, *, last: bool = False) -> tuple[str, list[CallPiece]]:
        """Read on: (content, calls) that this adds. `last`: no more will come."""
        self._held += text
        content = ""
        deltas: list[CallPiece] = []
        while True:
            if self._part == "beginning":
                called = self._bare.match(self._held) is not None
                if not called and not last and len(self._held) < KNOWN_BY and self._held[:1] in ("", "`", "{"):
                    return content, deltas
                self._part = "head" if called else "content"
            elif self._part == "content":
                at = self._held.find(TAG)
                n = at if at >= 0 else len(self._held) if last else self._sure()
                content += self._take(n) if at < 0 else self._take(n).rstrip()
                if at < 0:
                    return content, deltas
                self._part = "head"
            elif self._part == "head":
                head = _HEAD.match(self._held)
                if head is None:
                    return content, deltas
                self._take(head.end())
                deltas.append(CallPiece(self.calls, "", f"call_{uuid.uuid4().hex[:24]}", head[1]))
                self.calls += 1
                self._part = "arguments"
            else:
                piece = self._take(self._arguments())
                if deltas:
                    deltas[-1].arguments += piece
                elif piece:
                    deltas.append(CallPiece(self.calls - 1, piece))
                if self._depth or not piece:
                    return content, deltas
                self._part = "head"

    def _take(self, n: int) -> str:
        taken, self._held = self._held[:n], self._held[n:]
        return taken

    def _sure(self) -> int:
        """Length of what is content whatever follows: not the beginning of a tag, and no blank space before one."""
        begun = next(n for n in range(len(TAG) - 1, -1, -1) if self._held.endswith(TAG[:n]))
        return len(self._held[: len(self._held) - begun].rstrip())

    def _arguments(self) -> int:
        """Length of what is held of the arguments. `_depth` is 0 behind their last brace."""
        for i, character in enumerate(self._held):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    return i + 1
        return len(self._held)
