from __future__ import annotations

import pytest

from danlu.data.safety.personal import find_personal
from danlu.data.safety.secrets import entropy, is_random


@pytest.mark.parametrize(
    "line",
    [
        "password = input('Password: ')",
        "token = tokenizer.next_token()",
        "secret = os.environ['SECRET_KEY']",
        'api_key = "your-api-key-goes-here-1"',
        "PASSWORD: <password1234>",
        "pwd=$(pwd)/build_2024",
        "token: 2024-01-01",
        "access_key = config.access_key_2",
        "the password is correct horse",
        "密码是什么？密码：请输入您的新密码",
        "passwd = /etc/passwd-2024",
    ],
)
def test_what_is_no_secret(line: str) -> None:
    assert find_personal(line) == []


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('{"api_key": "9f86d081884c7d659a2feaa0c55ad015"}', "9f86d081884c7d659a2feaa0c55ad015"),
        ("DB_PASSWORD=hunter2Xq!", "hunter2Xq!"),
        ("secret_key => 'Zk3tPq81LmN0vB6x'", "Zk3tPq81LmN0vB6x"),
        ("口令：Qw3rt9Zx!", "Qw3rt9Zx!"),
    ],
)
def test_what_is_one(line: str, value: str) -> None:
    assert [line[found.start : found.end] for found in find_personal(line)] == [value]


def test_private_keys_whole_and_cut_short() -> None:
    body = "\n".join(["MIIEpAIBAAKCAQEA" * 4] * 3)
    whole = f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"
    assert [whole[f.start : f.end] for f in find_personal(whole + "\ntext")] == [whole]
    cut = f"-----BEGIN PRIVATE KEY-----\n{body}\n"
    assert find_personal(cut + "and here the text goes on.")[0].end >= len(cut) - 1
    quoted = whole.replace("\n", "\\n")
    assert [(f.start, f.end) for f in find_personal(f'"{quoted}"')] == [(1, 1 + len(quoted))]
    assert find_personal("the header -----BEGIN PUBLIC KEY----- is harmless") == []


def test_entropy() -> None:
    assert entropy("aaaa") == 0 and entropy("abcd") == 2
    assert not is_random("aaaaaaaa1aaaaaaaa", 16)
