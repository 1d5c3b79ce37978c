"""Tokens to text, one at a time: never half a character, never the beginning of a stop string.

Two small machines in a row.

    token bytes --> Utf8 --> characters --> StopStrings --> text that may be shown

A byte-level token is any piece of bytes: one Chinese character may be spread over three tokens, an emoji over four.
`Utf8` (Python's incremental decoder) holds back bytes until a code point is complete; bytes that can never become one
turn into U+FFFD, exactly as if the whole answer had been decoded at once.

A stop string may begin in one token and end three tokens later. `StopStrings` holds back the longest end of the text
that could still become a stop string. With stop = ["###"], pushed "a#", "#b", "##", "#c":

    push     held before   shown   held after
    "a#"     ""            "a"     "#"
    "#b"     "#"           "##b"   ""
    "##"     ""            ""      "##"
    "#c"     "##"          ""      stopped; "###" and what follows is dropped

Whatever the pieces, the pieces shown add up to the text before the first stop string that is complete. A text may be
named that ends the watch (the tag that opens a tool call): behind it a stop string is only text.
"""

from __future__ import annotations

import codecs
from typing import Protocol


class TokenBytes(Protocol):
    """What detokenising needs of a tokenizer (`danlu.tokenizer.Tokenizer` has it)."""

    @property
    def special_ids(self) -> frozenset[int]: ...
    @property
    def vocab_size(self) -> int: ...
    def token_bytes(self, token_id: int, /) -> bytes: ...


class StopStrings:
    """Cuts a stream of text at the first stop string that is complete, unless `before` was complete earlier."""

    def __init__(self, stop: tuple[str, ...], before: str = "") -> None:
        self.stop = (*stop, before) if stop and before else stop
        self.before = before
        self.stopped = False
        self._held = ""

    def push(self, text: str) -> str:
        """Add `text`; return what may be shown now."""
        if self.stopped or not self.stop:
            return "" if self.stopped else text
        text = self._held + text
        ends = [(at + len(stop), at, stop) for stop in self.stop if (at := text.find(stop)) >= 0]
        if ends:
            # The one that ends first wins, so that the result does not depend on how the text was cut into pieces.
            _, at, stop = min(ends)
            self._held = ""
            if stop == self.before:
                self.stop = ()
                return text
            self.stopped = True
            return text[:at]
        shown = len(text) - self._could_begin(text)
        self._held = text[shown:]
        return text[:shown]

    def flush(self) -> str:
        """No more text will come: what was held back is text after all."""
        held, self._held = self._held, ""
        return held

    def _could_begin(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop string."""
        longest = max(len(stop) for stop in self.stop) - 1
        for n in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-n:]) for stop in self.stop):
                return n
        return 0


class TextStream:
    """The text of one answer as it grows. Without a tokenizer the text stays empty.

    `text` is all that was shown so far. After `finish` it equals decoding all tokens at once, cut at the stop string.
    """

    def __init__(
        self,
        tokenizer: TokenBytes | None,
        stop: tuple[str, ...] = (),
        *,
        stop_before: str = "",
        skip_special: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = StopStrings(stop, stop_before)
        self._shown: list[str] = []

    @property
    def stopped(self) -> bool:
        """True once a stop string was complete."""
        return self._stop.stopped

    @property
    def text(self) -> str:
        if len(self._shown) > 1:
            self._shown = ["".join(self._shown)]
        return self._shown[0] if self._shown else ""

    def push(self, token_id: int) -> str:
        """Add a token; return the new text that may be shown, often one piece, sometimes none."""
        return self._show(self._stop.push(self._utf8.decode(self._bytes(token_id))))

    def finish(self) -> str:
        """The answer is over: return what was still held back. Half a character becomes U+FFFD."""
        shown = self._stop.push(self._utf8.decode(b"", final=True))
        return self._show(shown + self._stop.flush())

    def _bytes(self, token_id: int) -> bytes:
        tokenizer = self._tokenizer
        # A model's vocabulary may be padded beyond the tokenizer's; such a token has no text.
        if tokenizer is None or token_id >= tokenizer.vocab_size:
            return b""
        if self._skip_special and token_id in tokenizer.special_ids:
            return b""
        return tokenizer.token_bytes(token_id)

    def _show(self, text: str) -> str:
        if text:
            self._shown.append(text)
        return text
