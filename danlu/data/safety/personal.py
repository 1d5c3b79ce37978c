"""Personal data and secrets: where they are, and what is written in their place.

    find_personal("电话13800138000") -> [Found("mobile", 2, 13)]
    treat("电话13800138000").text     -> "电话<PHONE>"

| kind                                      | how it is known                                                      |
|-------------------------------------------|----------------------------------------------------------------------|
| id_card, credit_code, bank_card, iban     | a checksum, and region, date or first digits (`checksums`)           |
| mobile, landline, phone, ssn              | number ranges and separators; words before it decide the doubtful    |
| plate                                     | province sign, letter, five characters, or six for new energy        |
| passport, qq, wechat                      | only after the word itself: the number alone could be anything       |
| email, ip, mac                            | the form; private networks and example.com are left alone            |
| api_key, secret, private_key              | a service's prefix; a random value with a telling name; PEM          |
| address                                   | Chinese postal addresses down to the house number; off by default    |

A name of a person is not looked for: without a model of language that would take half of every history book.

Why placeholders and not invented numbers: an invented mobile number belongs to somebody, looks like the leak it
replaces, and hides from a second search whether the first one worked. "<PHONE>" is a fixed sequence of tokens, keeps
the sentence readable, and a search of the result finds nothing. `mask` keeps the first and last characters
(138****8000) where the form of the number is what a model should see.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from danlu.core.errors import shown, suggest
from danlu.data.safety.numbers import Found, find_numbers, is_reserved, shape_of
from danlu.data.safety.secrets import find_secrets

Action = Literal["replace", "mask", "drop", "keep"]

PLACEHOLDERS = {
    "id_card": "<ID_CARD>", "mobile": "<PHONE>", "landline": "<PHONE>", "phone": "<PHONE>", "bank_card": "<BANK_CARD>",
    "iban": "<IBAN>", "credit_code": "<CREDIT_CODE>", "ssn": "<SSN>", "plate": "<PLATE>", "passport": "<PASSPORT>",
    "qq": "<QQ>", "wechat": "<WECHAT>", "email": "<EMAIL>", "ip": "<IP>", "mac": "<MAC>", "api_key": "<API_KEY>",
    "secret": "<SECRET>", "private_key": "<PRIVATE_KEY>", "address": "<ADDRESS>",
}  # fmt: skip
KINDS = tuple(PLACEHOLDERS)


class PersonalConfig(BaseModel):
    """What is looked for, and what is done with it. `actions` overrides `action` for single kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action = "replace"
    actions: dict[str, Action] = {}  # {"private_key": "drop", "email": "keep"}
    addresses: bool = False  # postal addresses
    reserved: bool = False  # also what standards set aside: 192.168.0.1, 192.0.2.1, somebody@example.com
    skip: tuple[str, ...] = ()  # kinds that are not looked for

    @field_validator("actions", "skip")
    @classmethod
    def _known(cls, value: Any) -> Any:
        for kind in value:
            if kind not in KINDS:
                raise ValueError(f"there is no kind of personal data {shown(kind)}; {suggest(kind, KINDS)}")
        return value


DEFAULT = PersonalConfig()

_LOCAL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}([A-Za-z]{2,18})(?![A-Za-z0-9_-])")
_FILES = frozenset(
    re.findall(
        r"\S+",
        "png jpg jpeg gif svg webp css js ts py java json html htm xml txt md pdf zip gz so exe service",
    )
)
_RESERVED_DOMAIN = re.compile(r"(?:^|\.)(?:example\.(?:com|org|net)|example|test|invalid|localhost)$", re.IGNORECASE)
_SERVICE_USERS = frozenset(("git", "hg", "svn"))  # git@host:path is an address of a repository

_PLATE = re.compile(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-HJ-NP-Z][·•・ \-]?"
    r"(?:[DF][A-HJ-NP-Z0-9]\d{4}|\d{5}[DF]|(?=(?:[A-Z]?\d){3}|\d\d)[A-HJ-NP-Z0-9]{4}[A-HJ-NP-Z0-9挂学警港澳])(?![A-Za-z0-9])"
)
_PASSPORT = re.compile(
    r"(?:护照|護照|(?<![A-Za-z])[Pp]assports?|PASSPORT)[^\n,;，；。A-Z0-9]{0,16}"
    r"(?:(?:No|NO|Number|NUMBER|ID)[.:：# ]*)?"
    r"(?P<value>[A-Z]{1,2}\d{7,8}|\d{9})(?![A-Za-z0-9])"
)
_QQ = re.compile(
    r"(?:[Qq]{2}|扣扣|企鹅)(?:群|号码|号|群号)?[^\n\w]{0,3}(?:number|是|为|号)?[:：=\s]{0,3}(?P<value>[1-9]\d{4,10})(?![0-9A-Za-z_])",
    re.ASCII,
)
_WECHAT = re.compile(
    r"(?:(?:微信|薇信|威信|(?<![A-Za-z])[Ww]e[Cc]hat|(?<![A-Za-z])[Vv]信)(?:公众号|号码|号|群|[ ]?[Ii][Dd])?"
    r"(?:是|为| is )?[:：=\s]{0,3}|(?<![A-Za-z_-])(?:WX|wx|Wx|VX|vx|Vx)(?:号|[Ii][Dd])?[:：]\s?)"
    r"(?P<value>[A-Za-z][A-Za-z0-9_-]{5,19})(?![A-Za-z0-9_@.-])"
)
_HAN = r"[\u4e00-\u9fff]"
_ADDRESS = re.compile(
    rf"(?:{_HAN}{{2,7}}?(?:省|自治区))?(?:{_HAN}{{2,6}}?[市州盟])?(?:{_HAN}{{1,6}}?[区县旗])?(?:{_HAN}{{1,6}}?(?:镇|乡|街道))?"
    rf"{_HAN}{{1,8}}?(?:路|街|大道|巷|弄|胡同|村)(?:{_HAN}{{0,4}})?\d{{1,5}}(?:号|弄|巷)"
    rf"(?:{_HAN}{{0,10}}\d{{1,4}}(?:号楼|栋|幢|单元|楼|层|室|号)){{0,4}}"
)
_REGION = re.compile("[省市区县州旗]")


def find_personal(text: str, config: PersonalConfig = DEFAULT) -> list[Found]:
    """All spans of personal data in order, not overlapping: where two kinds claim a character the earlier one in the
    order of the search (the stricter) has it. Offsets are characters of `text`."""
    return _without_overlaps([found for found in _search(text, config) if found.kind not in config.skip])


def _search(text: str, config: PersonalConfig) -> Iterator[Found]:
    """Strict kinds first."""
    shape, flat = shape_of(text)
    yield from find_secrets(text, flat)
    if b"@" in flat:
        yield from _find_emails(text, config.reserved)
    has_digit = b"0" in shape
    if has_digit:
        for found in find_numbers(text, shape, flat):
            if found.kind != "ip" or config.reserved or not is_reserved(text[found.start : found.end]):
                yield found
        yield from _find_in_context(text, shape, flat)
        if config.addresses and "号" in text:
            for match in _ADDRESS.finditer(text):
                if _REGION.search(match.group()):
                    yield Found("address", *match.span())


def _find_emails(text: str, reserved: bool) -> Iterator[Found]:
    place = text.find("@")
    while place >= 0:
        domain = _DOMAIN.match(text, place + 1)
        if domain and domain[1].lower() not in _FILES and (reserved or not _RESERVED_DOMAIN.search(domain.group())):
            before = text[max(0, place - 64) : place]
            local = before[len(before.rstrip(_LOCAL)) :].lstrip("._%+-")
            if local and local[-1] != "." and ".." not in local and local not in _SERVICE_USERS:
                yield Found("email", place - len(local), domain.end())
        place = text.find("@", place + 1)


def _find_in_context(text: str, shape: bytes, flat: bytes) -> Iterator[Found]:
    """Kinds that only a word before them tells."""
    if not text.isascii():
        if b"?A" in shape:
            for match in _PLATE.finditer(text):
                yield Found("plate", *match.span())
        if "微信" in text or "信" in text or b"x" in flat or b"X" in flat:
            yield from _valued(
                "wechat", _WECHAT, text, ("微信", "薇信", "威信", "V信", "v信", "VX", "vx", "Vx", "WX", "wx")
            )
    yield from _valued("wechat", _WECHAT, text, ("WeChat", "wechat", "Wechat"))
    yield from _valued("qq", _QQ, text, ("QQ", "qq", "Qq", "扣扣", "企鹅"))
    yield from _valued("passport", _PASSPORT, text, ("护照", "護照", "assport", "PASSPORT"))


def _valued(kind: str, pattern: re.Pattern[str], text: str, words: tuple[str, ...]) -> Iterator[Found]:
    if any(word in text for word in words):
        for match in pattern.finditer(text):
            yield Found(kind, *match.span("value"))


def _without_overlaps(claimed: list[Found]) -> list[Found]:
    """Earlier finds win; a later one that touches a taken character is dropped."""
    if len(claimed) < 2:
        return claimed
    order = sorted(range(len(claimed)), key=lambda i: (claimed[i].start, i))
    kept: list[int] = []
    for i in order:
        # A new span can overlap only the last kept one, because kept ones do not overlap each other.
        while kept and claimed[kept[-1]].end > claimed[i].start and i < kept[-1]:
            kept.pop()
        if not kept or claimed[kept[-1]].end <= claimed[i].start:
            kept.append(i)
    return [claimed[i] for i in kept]


# ---- what is done with it --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Treated:
    """`text` after treatment, `found` per kind, and `drop`: the kind that makes the whole document unusable, or ""."""

    text: str
    found: dict[str, int] = field(default_factory=dict)
    drop: str = ""


def treat(text: str, config: PersonalConfig = DEFAULT, found: list[Found] | None = None) -> Treated:
    """Replace, mask or keep each span, or say that the document is to be dropped.

    "drop" leaves the text as it is and names the kind; what becomes of the document is the caller's business.
    """
    spans = find_personal(text, config) if found is None else found
    if not spans:
        return Treated(text)
    parts: list[str] = []
    end = 0
    drop = ""
    for span in spans:
        action = config.actions.get(span.kind, config.action)
        if action == "drop":
            drop = drop or span.kind
        if action in ("replace", "mask"):
            parts.append(text[end : span.start])
            parts.append(PLACEHOLDERS[span.kind] if action == "replace" else mask(text[span.start : span.end]))
            end = span.end
    counts = dict(sorted(Counter(span.kind for span in spans).items()))
    if drop:
        return Treated(text, counts, drop)
    return Treated("".join(parts) + text[end:], counts)


def mask(value: str) -> str:
    """Letters and digits become stars, but for the first three and last four of a long value (none of a short one).

    >>> mask("13800138000"), mask("zhang@mail.cn")
    ('138****8000', 'zha**@**il.cn')
    """
    places = [i for i, character in enumerate(value) if character.isalnum()]
    hidden = set(places[3:-4] if len(places) >= 11 else places)
    return "".join("*" if i in hidden else character for i, character in enumerate(value))
