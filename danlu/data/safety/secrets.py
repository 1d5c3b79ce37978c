"""The shapes of secrets: keys of services, tokens, passwords, private keys.

Services give their keys a prefix so that scanners find them; a row of `SECRETS` is (kind, literal, pattern): the
literal is looked for at memory speed, the pattern only where it stands. What has no prefix is found by the name it is
given to,

    password = "k3jH8-s0mething"        api_key: 9f86d081884c7d659a2feaa0      密码：Tr0ub4dor&3

and passes when the value looks random: two kinds of characters and enough entropy. A word, a path, a call, a
placeholder ("your-api-key", "xxxx", "${TOKEN}") does not.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from danlu.data.literals import LiteralSet
from danlu.data.safety.numbers import Found

_END = r"(?![A-Za-z0-9_-])"

SECRETS: tuple[tuple[str, str, re.Pattern[str]], ...] = tuple(
    (kind, literal, re.compile(pattern))
    for kind, literal, pattern in (
        ("api_key", "AKIA", rf"AKIA[A-Z2-7]{{16}}{_END}"),  # Amazon
        ("api_key", "ASIA", rf"ASIA[A-Z2-7]{{16}}{_END}"),
        ("api_key", "ghp_", rf"ghp_[A-Za-z0-9]{{36,255}}{_END}"),  # GitHub
        ("api_key", "gho_", rf"gho_[A-Za-z0-9]{{36,255}}{_END}"),
        ("api_key", "ghu_", rf"ghu_[A-Za-z0-9]{{36,255}}{_END}"),
        ("api_key", "ghs_", rf"ghs_[A-Za-z0-9]{{36,255}}{_END}"),
        ("api_key", "github_pat_", rf"github_pat_[A-Za-z0-9_]{{36,255}}{_END}"),
        ("api_key", "glpat-", rf"glpat-[A-Za-z0-9_-]{{20,64}}{_END}"),  # GitLab
        ("api_key", "sk-", rf"sk-(?=[A-Za-z0-9_-]*\d)(?=[A-Za-z0-9_-]*[A-Z])[A-Za-z0-9_-]{{20,220}}{_END}"),  # OpenAI
        ("api_key", "sk-", rf"sk-[0-9a-f]{{32,64}}{_END}"),  # and those who speak its protocol
        ("api_key", "sk_live_", rf"sk_live_[A-Za-z0-9]{{16,128}}{_END}"),  # Stripe
        ("api_key", "hf_", rf"hf_[A-Za-z]{{34}}{_END}"),  # Hugging Face
        ("api_key", "xox", rf"xox[abeoprs]-[A-Za-z0-9-]{{10,250}}{_END}"),  # Slack
        ("api_key", "AIza", rf"AIza[A-Za-z0-9_-]{{35}}{_END}"),  # Google
        ("api_key", "npm_", rf"npm_[A-Za-z0-9]{{36}}{_END}"),
        ("api_key", "pypi-AgE", rf"pypi-AgE[A-Za-z0-9_-]{{50,300}}{_END}"),
        ("api_key", "LTAI", rf"LTAI(?=[A-Za-z0-9]*\d)[A-Za-z0-9]{{12,24}}{_END}"),  # Alibaba
        ("api_key", "AKID", rf"AKID(?=[A-Za-z0-9]*\d)[A-Za-z0-9]{{32}}{_END}"),  # Tencent
        ("api_key", "eyJ", rf"eyJ[A-Za-z0-9_-]{{8,4000}}\.eyJ[A-Za-z0-9_-]{{8,4000}}\.[A-Za-z0-9_-]{{10,2000}}{_END}"),
    )
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{2,20} ){0,2}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[\sA-Za-z0-9+/=\\,:.\-_]{0,20000}?-----END (?:[A-Z0-9]{2,20} ){0,2}PRIVATE KEY(?: BLOCK)?-----"
    r"|(?:\\n|\s|[A-Za-z0-9+/=]{20,100}(?![A-Za-z0-9+/=])){1,400})"
)

_NAMES = (
    "secret", "token", "passw", "pwd", "api_key", "apikey", "api-key", "access_key", "accesskey", "access-key",
    "密码", "口令", "密钥", "令牌", "密碼",
)  # fmt: skip
_LITERALS = LiteralSet(("PRIVATE KEY", *_NAMES, *(literal for _, literal, _ in SECRETS)))
_ASSIGNED = re.compile(
    r"(?:secret|token|passw(?:or)?d|passwd|pwd|api[_-]?key|access[_-]?key|密码|口令|密钥|令牌|密碼)"
    r"(?:[_-](?:key|token|id|value))?[\"']?\s{0,4}(?:=(?!=)|:(?!:)|：|=>|是|为)\s{0,4}(?P<quote>[\"'“「]?)"
    r"(?P<value>[A-Za-z0-9+/_.!@#$%^&*=~?\-]{8,200})(?P<after>.?)",
    re.IGNORECASE,
)
_WORD_BEFORE = re.compile("[A-Za-z0-9_]")
_PLACEHOLDER = re.compile(
    r"your|example|xxx|\*\*\*|\.\.\.|<|\$\{|change|placeholder|dummy|test|sample|abc123|foobar|insert|replace|redacted|"
    r"^https?:|^[/.~]|\.(?:py|js|json|txt|md|html?|png|com|org|net)\b",
    re.IGNORECASE,
)
_CODE = re.compile(r"[A-Za-z_]+(?:\.[A-Za-z_]\w*)+|[A-Za-z]+[a-z]*(?:_[A-Za-z]+)*_?\d{0,2}|[\d.\-]+")


def find_secrets(text: str, flat: bytes) -> Iterator[Found]:
    """Keys with a known prefix, private key blocks, values that are assigned to a telling name.

    `flat` is the text as ASCII of the same length, with "?" for what is not.
    """
    present = set(_LITERALS.present(text))
    if not present:
        return
    for kind, literal, pattern in SECRETS:
        for place in _places(text, literal) if literal in present else ():
            match = pattern.match(text, place)
            if match and not _WORD_BEFORE.search(text[max(0, place - 1) : place]):
                yield Found(kind, *match.span())
    if "PRIVATE KEY" in present:
        for match in _PRIVATE_KEY.finditer(text):
            yield Found("private_key", *match.span())
    names = [name for name in _NAMES if name in present]
    if names:
        yield from _find_assigned(text, flat, names)


def _places(text: str, literal: str) -> Iterator[int]:
    place = text.find(literal)
    while place >= 0:
        yield place
        place = text.find(literal, place + len(literal))


def _find_assigned(text: str, flat: bytes, names: list[str]) -> Iterator[Found]:
    lowered = flat.lower().decode("ascii")
    places = {place for name in names for place in _places(lowered if name.isascii() else text, name)}
    for place in sorted(places):
        match = _ASSIGNED.match(text, place)
        if match is None:
            continue
        value = match["value"]
        if not match["quote"]:  # bare words end with the sentence
            value = value.rstrip(".,!?;")
            if match["after"] in ("(", "[", "<", "{"):  # a call, a subscript
                continue
        if is_random(value, 8 if "pass" in match.group().lower() or not match.group()[0].isascii() else 16):
            yield Found("secret", match.start("value"), match.start("value") + len(value))


def is_random(value: str, length: int) -> bool:
    """Looks like something a machine or a careful person made up: long, of mixed characters, no word and no path.

    >>> is_random("9f86d081884c7d659a2f", 16), is_random("configuration_parser", 16)
    (True, False)
    """
    if len(value) < length or _PLACEHOLDER.search(value) or _CODE.fullmatch(value):
        return False
    kinds = (
        any(c.isdigit() for c in value)
        + any(c.islower() for c in value)
        + any(c.isupper() for c in value)
        + any(not c.isalnum() for c in value)
    )
    has_digit = any(c.isdigit() for c in value)
    return kinds >= 2 and has_digit and entropy(value) >= (2.5 if length < 16 else 3.0)


def entropy(value: str) -> float:
    """Bits per character of the value's own distribution of characters."""
    total = len(value)
    return -sum(count / total * math.log2(count / total) for count in Counter(value).values())
