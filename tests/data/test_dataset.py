from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import UserError
from danlu.data.dataset import FormatError, Row, messages_id, read_conversations, read_rows, to_messages, write_rows
from danlu.data.formats.extract import Broken

HI = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": HI},
        {"messages": json.dumps(HI)},
        {"messages": [*HI, {"role": "user", "content": "unanswered"}]},
        {"conversations": [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "你好！"}]},
        {"conversation": [{"role": "user", "content": "你好"}, {"from": "bot", "text": "你好！"}]},
        {"instruction": "你好", "input": "", "output": "你好！"},
        {"instruction": "你好", "output": "你好！", "messages": None},
        {"prompt": "你好", "completion": "你好！"},
        {"prompt": HI[:1], "completion": HI[1:]},
        {"prompt": "你好", "response": "你好！"},
        {"question": "你好", "answer": "你好！"},
    ],
)
def test_formats_of_the_wild_become_the_same_messages(record: dict[str, Any]) -> None:
    assert to_messages(record) == HI


def test_system_input_and_history_keep_their_places() -> None:
    record = {"system": "S", "history": [["a", "b"]], "instruction": "c", "input": "d", "output": "e"}
    said = [(message["role"], message["content"]) for message in to_messages(record)]
    assert said == [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c\n\nd"), ("assistant", "e")]
    sharegpt = {"system": "S", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    assert to_messages(sharegpt)[0] == {"role": "system", "content": "S"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("text", "no record"),
        ({"text": "a document"}, "no known format"),
        ({"messages": "not json"}, "not a list"),
        ({"messages": [1, 2]}, "not a list"),
        ({"messages": []}, "no message of the assistant"),
        ({"messages": HI[:1]}, "no message of the assistant"),
        ({"messages": HI[1:]}, "no message of the user"),
        ({"messages": [HI[0], {"role": "assistant", "content": " "}]}, "empty answer"),
        ({"messages": [HI[0], {"role": "assistant", "content": None}]}, "not text"),
        ({"messages": [HI[0], {"role": "narrator", "content": "x"}]}, "unknown role 'narrator'"),
        ({"prompt": "x", "completion": 3}, "not text"),
        ({"prompt": "x", "completion": "\ud83d"}, "half a character"),
    ],
)
def test_what_is_no_conversation_says_why(record: Any, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        to_messages(record)


def test_rows_are_read_as_written(tmp_path: Path) -> None:
    rows = [Row(messages_id(HI), HI, "chats.jsonl", {"path": "chats.jsonl:1"}), Row("2", HI, "x")]
    assert write_rows(tmp_path, "train", rows) == 2
    assert list(read_rows(tmp_path)) == rows


def test_the_id_is_of_the_messages_alone() -> None:
    assert messages_id(HI) == messages_id([dict(message) for message in HI])
    assert messages_id([{"role": "user", "content": "ab"}]) != messages_id([{"role": "usera", "content": "b"}])


def test_a_file_keeps_broken_lines_and_strange_records_aside(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": HI}) + "\n{broken\n" + json.dumps({"text": "x"}) + "\n")
    found = list(read_conversations(path))
    assert found[0] == (":1", HI)
    assert [(b.place, b.reason) for b in found[1:] if isinstance(b, Broken)] == [
        (":2", "broken_line"),
        (":3", "no_conversation"),
    ]
    with pytest.raises(UserError, match="there is no file"):
        list(read_conversations(tmp_path / "none.jsonl"))
