"""Mail: .eml files and mbox mailboxes. The text of a message without what it quotes and without its signature.

A message is one document: its own words. Quoted replies (lines with ">", and everything below "-----Original
Message-----" or a repeated header) are left out, since they stand in the mailbox once already as messages of their
own; `meta.quoted_lines` says how many they were. The plain part is preferred, else the HTML part is read. `meta` has
title (the subject), date and author (the From header): these are personal data, and so is the text.

In an mbox a message begins at a line "From " at the beginning of the file or behind an empty line; its place is the
byte where that line begins. Source: RFC 4155 (mbox), RFC 5322 (messages), RFC 3676 section 4.3 (the line "-- ").
"""

from __future__ import annotations

import email
import re
from collections.abc import Iterator
from email.header import decode_header
from email.message import Message
from typing import Any, BinaryIO

from danlu.data.formats import markdown
from danlu.data.formats.encodings import UnreadableError, decode_labelled
from danlu.data.formats.item import EXCERPT, Broken, Item
from danlu.data.formats.streams import read_all

_MAX_MESSAGE = 1 << 26
_MAX_PARTS = 200  # the parser recurses, and takes time with the square of the depth
_MAX_HEADER = 1_000  # characters; its decoder is no faster
_SIGNATURE = re.compile(r"\n-- ?\n[^\0]*\Z")
_ORIGINAL = re.compile(
    r"^\s*(?:-{2,}\s*(?:original message|forwarded message|原始邮件|原始郵件|转发邮件|轉寄郵件|回复的原邮件)\s*-{2,}|"
    r"_{20,}|(?:from|发件人|寄件者)\s*[:：].{1,200}\n\s*(?:sent|date|to|发送时间|日期|收件人|收件者)\s*[:：])",
    re.I | re.M,
)
_ATTRIBUTION = re.compile(
    r"(?:^|\n)[^\n]{0,200}(?:\n[^\n]{0,100})?(?:wrote|writes|写道|寫道|schrieb|a écrit)\s*[:：]\s*$", re.I
)


def read_eml(stream: BinaryIO) -> Iterator[Item | Broken]:
    yield read_message(read_all(stream, _MAX_MESSAGE), "")


def read_mbox(stream: BinaryIO) -> Iterator[Item | Broken]:
    """The messages of a mailbox, one in memory at a time."""
    position = begin = 0
    lines: list[bytes] = []
    size = 0
    empty_before = True
    while line := stream.readline(_MAX_MESSAGE):
        if empty_before and line.startswith(b"From "):
            if lines:
                yield _message(lines, size, begin)
            lines, size, begin = [], 0, position
        elif begin or position or lines or not line.strip():
            size += len(line)
            if size <= _MAX_MESSAGE:
                lines.append(line[1:] if re.match(rb">+From ", line) else line)
        else:
            yield Broken("unreadable", "no mailbox: it does not begin with a line From")
            return
        empty_before = not line.strip()
        position += len(line)
    if lines:
        yield _message(lines, size, begin)


def _message(lines: list[bytes], size: int, begin: int) -> Item | Broken:
    if size > _MAX_MESSAGE:
        return Broken("too_large", f"a message of {size} bytes", f"@{begin}")
    return read_message(b"".join(lines), f"@{begin}")


def read_message(data: bytes, place: str) -> Item | Broken:
    """The words of one message."""
    if data.lower().count(b"multipart/") > _MAX_PARTS:
        return Broken("unreadable", f"more than {_MAX_PARTS} parts inside each other", place)
    try:
        message = email.message_from_bytes(data)
        part = _text_part(message)
        subject, date, author = (_header(message, name) for name in ("subject", "date", "from"))
        if part is None:
            return Broken("no_text", f"no part is text: {message.get_content_type()}", place, subject[:EXCERPT])
        payload = part.get_payload(decode=True)
        text, _ = decode_labelled(payload if isinstance(payload, bytes) else b"", part.get_content_charset() or "")
        if part.get_content_subtype() == "html":
            tree = markdown.parse_html(text.encode("utf-8", "replace"))
            text = "" if tree is None else markdown.from_html(tree)
    except UnreadableError as error:
        return Broken("encoding", str(error), place)
    except (ValueError, LookupError, TypeError, AttributeError, IndexError, KeyError, RecursionError) as error:
        # The parser of the standard library meets broken headers with errors of many kinds.
        return Broken("unreadable", f"{type(error).__name__}: {error}"[:EXCERPT], place)
    text, quoted = own_words(text)
    meta: dict[str, Any] = {
        name: value for name, value in (("title", subject), ("date", date), ("author", author)) if value
    }
    if quoted:
        meta["quoted_lines"] = quoted
    return Item(text, place, meta=meta) if text else Broken("no_text", "nothing but quotes", place, subject[:EXCERPT])


def own_words(text: str) -> tuple[str, int]:
    """A message without quoted replies and signature, and how many lines were quotes.

    >>> own_words("Yes.\\n\\nOn Monday, A wrote:\\n> Is it?\\n-- \\nB")
    ('Yes.', 1)
    """
    text = _SIGNATURE.sub("\n", text.replace("\r\n", "\n").replace("\0", ""))
    original = _ORIGINAL.search(text)
    quoted = 0
    if original:
        quoted = text[original.start() :].count("\n")
        text = text[: original.start()]
    blocks: list[str] = []
    own: list[str] = []
    for line in text.split("\n"):
        if line.startswith(">"):
            if own:
                blocks.append(_without_attribution("\n".join(own).rstrip()))
                own = []
            quoted += 1
        else:
            own.append(line)
    blocks.append("\n".join(own))
    return "\n\n".join(stripped for block in blocks if (stripped := block.strip())), quoted


def _without_attribution(block: str) -> str:
    """Without the line at the end that says whose words follow."""
    tail = block[-400:]
    found = _ATTRIBUTION.search(tail)
    return block if found is None else block[: len(block) - len(tail) + found.start()]


def _text_part(message: Message) -> Message | None:
    """The plain part that is no attachment, else the HTML one."""
    found: dict[str, Message] = {}
    for part in message.walk():
        if part.is_multipart() or "attachment" in str(part.get("content-disposition", "")).lower():
            continue
        if part.get_content_maintype() == "text":
            found.setdefault(part.get_content_subtype(), part)
    return found.get("plain") or found.get("html")


def _header(message: Message, name: str) -> str:
    """A header in plain characters: "=?utf-8?b?5pil5pmT?=" -> "春晓"."""
    raw = str(message.get(name, ""))[:_MAX_HEADER]
    parts = []
    for part, charset in decode_header(raw):
        try:
            parts.append(part if isinstance(part, str) else decode_labelled(part, charset or "")[0])
        except UnreadableError:
            parts.append(part.decode("ascii", "replace") if isinstance(part, bytes) else part)
    return " ".join("".join(parts).split())[:300]
