"""Text as it is: plain text, Markdown, source code. One file is one document, except exports of chats (`chat`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from danlu.data.formats.chat import chat_of_text
from danlu.data.formats.encodings import decode
from danlu.data.formats.item import Broken, Item
from danlu.data.formats.licence import find_licence
from danlu.data.formats.streams import read_all


def read_text(stream: BinaryIO) -> Iterator[Item | Broken]:
    """The whole file; an encoding other than UTF-8 is named in `meta`."""
    text, encoding = decode(read_all(stream))
    yield Item(text, meta=_about(encoding))


def read_text_or_chat(stream: BinaryIO) -> Iterator[Item | Broken]:
    """A text, or the conversations of an exported chat."""
    text, encoding = decode(read_all(stream))
    conversations = chat_of_text(text)
    if conversations is None:
        yield Item(text, meta=_about(encoding))
        return
    for place, record in conversations:
        yield Item(record.pop("text"), f"#{place}", meta=record | _about(encoding))


def read_code(stream: BinaryIO) -> Iterator[Item | Broken]:
    """The same, with the licence that the head of the file names."""
    for item in read_text(stream):
        yield Item(item.text, meta=item.meta, licence=find_licence(item.text)) if isinstance(item, Item) else item


def _about(encoding: str) -> dict[str, str]:
    return {} if encoding in ("utf-8", "utf-8-sig") else {"encoding": encoding}
