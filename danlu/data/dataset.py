"""A chat row: one conversation to learn from, and the formats of the wild that are read into it.

A dataset is a directory of Parquet files like a corpus, with the columns

| column   | type                        | example                                                              |
|----------|-----------------------------|----------------------------------------------------------------------|
| id       | string                      | "5d41402abc4b2a76": hash of the messages                             |
| messages | list<struct<role, content>> | [{"role": "user", "content": "..."}, {"role": "assistant", ...}]     |
| source   | string                      | "chats.jsonl", or the source of the corpus                           |
| meta     | string                      | JSON object; {"document": ID} leads back to the corpus               |
| reason   | string                      | only in rejected-*: why the row was dropped                          |

A format is a row of `FORMATS`: the fields by which a record is recognised, and how they become messages.

    {"messages": [{"role": "user", "content": "Hi"}, ...]}                     the OpenAI way
    {"conversations": [{"from": "human", "value": "Hi"}, ...]}                 ShareGPT
    {"instruction": "Translate", "input": "Hi", "output": "Salut"}             Alpaca
    {"prompt": "Hi", "completion": "Hello"}, {"question": ..., "answer": ...}  pairs of any name
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from danlu.core.artifact import Artifact
from danlu.core.errors import UserError
from danlu.data.document import ShardWriter, read_parquet
from danlu.data.formats.extract import Broken, read_records

Message = dict[str, str]  # {"role": "system" | "user" | "assistant" | "tool", "content": ...}

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("source", pa.string()),
        ("meta", pa.string()),
    ]
)
REJECTED_SCHEMA = SCHEMA.append(pa.field("reason", pa.string()))


@dataclass(frozen=True)
class Row:
    """One conversation. It ends with an assistant message: that is what is learned."""

    id: str
    messages: list[Message]
    source: str
    meta: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        meta = json.dumps(self.meta, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return {"id": self.id, "messages": self.messages, "source": self.source, "meta": meta}


def read_rows(dataset: Artifact | Path | str, split: str = "train") -> Iterator[Row]:
    """Yield the rows of a split in stored order. Raises UserError when there is no dataset or it is damaged."""
    for row in read_parquet(dataset, split, SCHEMA.names):
        yield Row(**{**row, "meta": json.loads(row["meta"] or "{}")})


def write_rows(directory: Path, split: str, rows: Iterable[Row], rows_per_file: int = 200_000) -> int:
    """Write a split into `directory`; returns the number of rows. No rows, no file."""
    with ShardWriter(directory, split, SCHEMA, rows_per_file) as writer:
        for row in rows:
            writer.write(row.row())
    return writer.rows


def messages_id(messages: list[Message]) -> str:
    """A name that depends on the conversation alone, so equal conversations are found by it."""
    text = json.dumps([[m["role"], m["content"]] for m in messages], ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


# ---- formats ---------------------------------------------------------------------------------------------------


class FormatError(ValueError):
    """A record is not a conversation; the message says why in a few words."""


@dataclass(frozen=True)
class Format:
    """A record with all of `fields` is read by `messages`, which raises FormatError for what it cannot use."""

    name: str
    fields: tuple[str, ...]
    messages: Callable[[Mapping[str, Any]], list[Message]]


def to_messages(record: Any) -> list[Message]:
    """The conversation in a record of any known format.

    Raises FormatError when no format fits, a message is not text, or nothing is said by the assistant.

    >>> to_messages({"instruction": "Add", "input": "1 and 2", "output": "3"})
    [{'role': 'user', 'content': 'Add\\n\\n1 and 2'}, {'role': 'assistant', 'content': '3'}]
    """
    if not isinstance(record, dict):
        raise FormatError(f"a {type(record).__name__} is no record")
    for form in FORMATS:
        if all(record.get(name) is not None for name in form.fields):
            return _checked(form.messages(record))
    raise FormatError(f"no known format has the fields {', '.join(map(str, record)) or '(none)'}")


def _listed(field: str) -> Callable[[Mapping[str, Any]], list[Message]]:
    """A list of turns under `field`, in OpenAI's or in ShareGPT's names; some exports mix the two."""

    def read(record: Mapping[str, Any]) -> list[Message]:
        turns = record[field]
        if isinstance(turns, str):  # Parquet and CSV exports often hold the list as JSON
            try:
                turns = json.loads(turns)
            except ValueError:
                raise FormatError(f"{field} is text, not a list of messages") from None
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise FormatError(f"{field} is not a list of messages")
        messages = [_turn(turn) for turn in turns]
        system = record.get("system")
        if isinstance(system, str) and system.strip() and messages and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        return messages

    return read


_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "observation": "tool",
    "function_response": "tool",
    **{role: role for role in ("system", "user", "assistant", "tool")},
}


def _turn(turn: Mapping[str, Any]) -> Message:
    name = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value", turn.get("text")))
    if name not in _ROLES:
        raise FormatError(f"unknown role {name!r}")
    return {"role": _ROLES[name], "content": content}  # that content is text: _checked


def _pair(question: str, answer: str, extra: str = "") -> Callable[[Mapping[str, Any]], list[Message]]:
    """A question and an answer under two names, and what may stand between them under a third."""

    def read(record: Mapping[str, Any]) -> list[Message]:
        if isinstance(record[question], list):  # {"prompt": [messages], "completion": [messages]}
            answers = record[answer]
            return [_turn(t) for t in [*record[question], *(answers if isinstance(answers, list) else [])]]
        asked = record[question]
        if extra and isinstance(record.get(extra), str) and record[extra].strip():
            asked = f"{asked}\n\n{record[extra]}"
        history = [
            message
            for turn in record.get("history") or []  # Alpaca with history: [[question, answer], ...]
            if isinstance(turn, list | tuple) and len(turn) == 2
            for message in ({"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]})
        ]
        system = [{"role": "system", "content": record["system"]}] if record.get("system") else []
        said = [{"role": "user", "content": asked}, {"role": "assistant", "content": record[answer]}]
        return [*system, *history, *said]

    return read


FORMATS: tuple[Format, ...] = (
    Format("messages", ("messages",), _listed("messages")),
    Format("sharegpt", ("conversations",), _listed("conversations")),
    Format("sharegpt", ("conversation",), _listed("conversation")),
    Format("alpaca", ("instruction", "output"), _pair("instruction", "output", "input")),
    Format("alpaca", ("instruction", "response"), _pair("instruction", "response", "context")),
    Format("prompt", ("prompt", "completion"), _pair("prompt", "completion")),
    Format("prompt", ("prompt", "response"), _pair("prompt", "response")),
    Format("prompt", ("query", "response"), _pair("query", "response")),
    Format("prompt", ("question", "answer"), _pair("question", "answer", "context")),
)


def _checked(messages: list[Message]) -> list[Message]:
    """Well-formed: text everywhere, the user before the assistant, the assistant last. Trailing questions go."""
    for message in messages:
        if not isinstance(message["content"], str):
            raise FormatError(f"the content of a {message['role']} message is not text")
        if any("\ud800" <= character <= "\udfff" for character in message["content"]):
            raise FormatError(f"a {message['role']} message holds half a character")
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]  # an unanswered question teaches nothing
    if not messages:
        raise FormatError("no message of the assistant")
    if not any(m["role"] == "user" for m in messages):
        raise FormatError("no message of the user")
    if any(m["role"] == "assistant" and not m["content"].strip() for m in messages):
        raise FormatError("an empty answer")
    return messages


def read_conversations(path: Path) -> Iterator[tuple[str, list[Message]] | Broken]:
    """Yield (place, messages) of a jsonl, json, csv or Parquet file, and what in it is no conversation."""
    if not path.is_file():
        raise UserError(f'there is no file "{path.name}"', f"looked in {path.parent.resolve()}")
    for record in read_records(path):
        if isinstance(record, Broken):
            yield record
            continue
        place, value = record
        try:
            yield place, to_messages(value)
        except FormatError as error:
            excerpt = json.dumps(value, ensure_ascii=False, default=str)[:500]
            yield Broken("no_conversation", str(error), place, excerpt)
