"""The shapes of numbers that name a person, a card or a machine.

A row of `NUMBERS` is (kind, pattern, check): the pattern says what it looks like, the check does the arithmetic and
looks at the words before it. Rows are tried in order and a character belongs to the first that takes it, so the
strict ones (with a checksum) come first and the loose ones (a telephone is almost any number) last.

Whole texts are never searched with these patterns. `shape_of` turns a text into one byte a character,

    "Tel. 138-0013-8000, 京A"   ->   b"Aaa. 000-0000-0000, ?A"

at memory speed, and in it a number is a literal run: only such zones are looked at, so prose costs nothing.

Two kinds of words before a number decide what has no checksum: "订单号" (order), "ISBN", "version", an operator of a
program speak against it, "电话", "tel" for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from danlu.data.safety import checksums


class Found(NamedTuple):
    """One span of a text: text[start:end] is of this kind."""

    kind: str
    start: int
    end: int


_SHAPE = bytes(
    ord("0") if chr(b).isdigit() else ord("A") if chr(b).isupper() else ord("a") if chr(b).islower() else b
    for b in range(128)
) + bytes([ord("?")]) * 128  # fmt: skip
_HEX = bytes(ord("h") if chr(b) in "0123456789abcdefABCDEF" else ord(":") if chr(b) == "-" else b for b in range(128)) + bytes(128)  # noqa: E501

_ZONE = re.compile(rb"0[0 .()\-]{5,}0")
_BEFORE, _AFTER = 8, 14  # how far a number may reach beyond its zone: "+86 (0", letters at its end

# Words that say what the number after them is; looked for in the last characters before it.
_NO_PERSON = re.compile(
    r"(?<![A-Za-z])(?:order|serial|tracking|invoice|batch|isbn|issn|doi|version|ver|build|release|revision|timestamp|epoch|sku|"
    r"part|model|case|ticket|issue|bug|id|hash|code|ref|catalog(?:ue)?|population)"
    r"(?![A-Za-z])[^\n,;，；。、]{0,10}$|(?:订单|单号|流水|批号|批次|编号|序列号|货号|条码|版本|型号|时间戳|案号|学号|工号|书号|刊号|文号|票号|期号|代码)"
    r"[^\n,;，；。、]{0,10}$",
    re.IGNORECASE,
)
_CALCULATION = re.compile(
    r"[\w)\]] ?(?:[=<>*%^+&]+| - ?) ?$|[\d.] ?[×÷·∙≈≡≤≥] ?$|\\[a-z]+ ?\{?$|\w\($|[@#$]$", re.ASCII
)
_TELEPHONE = re.compile(
    r"(?:(?<![A-Za-z])(?:tel(?:ephone)?|phone|mobile|cell|fax|call|contact|whatsapp|sms|dial|hotline|text|reach)|"
    r"电话|手机|传真|热线|联系|致电|拨打|座机|号码|固话|来电|短信|微信|查询|报名|预约|咨询)[^\n;；。]{0,16}$",
    re.IGNORECASE,
)
_CARD = re.compile(r"(?:card|account|银行|卡号|账号|帐号|账户|信用卡|visa|unionpay|银联)[^\n;；。]{0,16}$", re.IGNORECASE)
_IDENTITY = re.compile(r"(?:身份证|身份號|证件|identity|id card|id no)[^\n;；。]{0,12}$", re.IGNORECASE)
_SOCIAL = re.compile(r"(?:ssn|social security)[^\n;]{0,16}$", re.IGNORECASE)
_VERSION = re.compile(r"(?:version|\bver\.?|\bv|release|build|版本|版|section|chapter|§|/|-)\s?:?$", re.IGNORECASE)
_INTERNET = re.compile(r"(?:\bip|addr|host|server|from|dns|地址|服务器|主机)[^\n;；。]{0,12}$", re.IGNORECASE)
_CALLING_CODES = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|21[1-8]|22\d|23\d|24\d|25\d|26\d|29\d|35\d|37\d|38\d|"
    r"42[013]|50\d|59\d|67\d|68\d|69\d|85\d|88\d|96\d|97\d|99\d"
)
# Area codes of China: 010, 02x, and three digits from 0310 to 0998.
_AREA = re.compile(r"010|02[0-57-9]|0[3-9]\d\d")
# Ranges given to mobile networks (13, 15, 18, 19 whole or nearly; parts of 14, 16, 17).
_MOBILE = re.compile(r"13\d|14[015-9]|15[0-35-9]|16[2567]|17[0-8]|18\d|19[0-35-9]")


def _digits(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z]", "", text)


def _head(match: re.Match[str], length: int = 24) -> str:
    return match.string[max(0, match.start() - length) : match.start()]


def _named_otherwise(match: re.Match[str]) -> bool:
    """The words before it say that it is the number of a thing, or an operator that it is a value."""
    head = _head(match)
    if _TELEPHONE.search(head) or _CARD.search(head):
        return False
    return bool(_NO_PERSON.search(head) or _CALCULATION.search(head))


def _check_id(match: re.Match[str]) -> bool:
    return checksums.is_id_card(_digits(match.group()))


def _check_old_id(match: re.Match[str]) -> bool:
    return checksums.is_old_id_card(match.group()) and _IDENTITY.search(_head(match)) is not None


def _check_card(match: re.Match[str]) -> bool:
    return checksums.is_payment_card(_digits(match.group())) and not _named_otherwise(match)


def _check_mobile(match: re.Match[str]) -> bool:
    number = _digits(match.group())[-11:]
    return _MOBILE.match(number) is not None and not _named_otherwise(match)


def _check_ssn(match: re.Match[str]) -> bool:
    number = _digits(match.group())
    if not checksums.is_ssn(number):
        return False
    return ("-" in match.group() and not _named_otherwise(match)) or _SOCIAL.search(_head(match)) is not None


def _check_american(match: re.Match[str]) -> bool:
    number = _digits(match.group())[-10:]
    service = number[1:3] == "11" or number[4:6] == "11"  # 911, 411
    if service or (match.group().isdigit() and not _TELEPHONE.search(_head(match))):
        return False
    return not _named_otherwise(match)


def _check_international(match: re.Match[str]) -> bool:
    number = _digits(match.group())
    if not 9 <= len(number) <= 15 or not _CALLING_CODES.match(number) or len(set(number)) <= 2:
        return False
    if _TELEPHONE.search(_head(match)):
        return True
    plain = match.group()[1:].isdigit()  # +2147483647 is a number of a program
    decimal = re.search(r"\d{4}\.\d|\.\d$", match.group())
    return not decimal and (len(number) >= 11 or not plain) and not _CALCULATION.search(_head(match))


def _check_landline(match: re.Match[str]) -> bool:
    if not _AREA.match(_digits(match.group())) or _named_otherwise(match):
        return False
    return any(mark in match.group() for mark in "-)） ") or _TELEPHONE.search(_head(match)) is not None


def _check_ip(match: re.Match[str]) -> bool:
    octets = match.group().split(".")
    if any(int(octet) > 255 or (len(octet) > 1 and octet[0] == "0") for octet in octets):
        return False
    head = _head(match)
    if _INTERNET.search(head) or match.string[match.end() : match.end() + 1] in (":", "/"):
        return True
    # Small numbers are a section or a version: 3.2.1.44.
    return not _VERSION.search(head) and not _NO_PERSON.search(head) and max(map(int, octets[:3])) > 19


# Borders: no letter, digit or underscore of ASCII at either side (Chinese may touch), and no part of a longer number.
_L = r"(?<![A-Za-z0-9_])(?<!\d[.,\-/])(?<![A-Za-z0-9]-)"
_R = r"(?![A-Za-z0-9_])(?![.,\-/]\d)"

NUMBERS: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = tuple(
    (kind, re.compile(pattern, re.ASCII), check)
    for kind, pattern, check in (
        ("id_card", rf"{_L}\d{{6}}(?:[ -]?)\d{{8}}(?:[ -]?)\d{{3}}[\dXx]{_R}", _check_id),
        ("ip", rf"{_L}(?<!\.)\d{{1,3}}(?:\.\d{{1,3}}){{3}}(?![A-Za-z0-9_])(?!\.\d)", _check_ip),
        ("bank_card", rf"{_L}(?:\d{{4}}([ -])\d{{4}}\1\d{{4}}\1\d{{4}}(?:\1\d{{3}})?|\d{{6}}[ -]\d{{10,13}}|"
                      rf"3\d{{3}}[ -]\d{{6}}[ -]\d{{5}}|\d{{13,19}}){_R}", _check_card),
        ("id_card", rf"{_L}\d{{15}}{_R}", _check_old_id),
        ("mobile", rf"{_L}(?:(?:\+ ?|00)?86[ -]?|\(\+?86\) ?)?1[3-9]\d([ -]?)\d{{4}}\1\d{{4}}{_R}", _check_mobile),
        ("ssn", rf"{_L}\d{{3}}([ -]?)\d{{2}}\1\d{{4}}{_R}", _check_ssn),
        ("phone", rf"{_L}(?:\+?1[ .-]?)?(?:\([2-9]\d\d\)[ -]?[2-9]\d\d[ .-]|[2-9]\d\d([ .-]?)[2-9]\d\d\1)\d{{4}}{_R}",
         _check_american),
        ("landline", rf"{_L}(?:\+86[ -]?)?(?:[(（]0\d{{2,3}}[)）][ -]?|0\d{{2,3}}[ -]?)[2-8]\d{{6,7}}(?:-\d{{1,4}})?"
                     rf"{_R}", _check_landline),
        ("phone", rf"(?<![\w+.)])\+[1-9]\d{{0,2}}(?:[ .-]?\(\d{{1,4}}\)[ .-]?\d|[ .-]?\d){{6,14}}{_R}",
         _check_international),
    )
)  # fmt: skip

_CREDIT_CODE = re.compile(r"(?<![A-Za-z0-9_])[159YAN][0-9A-HJ-NPQRTUWXY]\d{6}[0-9A-HJ-NPQRTUWXY]{10}(?![A-Za-z0-9_])")
_IBAN = re.compile(r"(?<![A-Za-z0-9_])[A-Z]{2}\d\d(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?![A-Za-z0-9_])")
_MAC = re.compile(r"(?<![0-9A-Za-z_:-])[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){5}|(?:-[0-9A-Fa-f]{2}){5})(?![0-9A-Za-z_:-])")
_IPV6 = re.compile(
    r"(?<![0-9A-Za-z_:.])(?:[23][0-9A-Fa-f]{3}|[fF][cdCD][0-9A-Fa-f]{2}|[fF][eE]80):"
    r"(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4})*)?(?:::?[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4})*|::)?(?![0-9A-Za-z_:])"
)


def shape_of(text: str) -> tuple[bytes, bytes]:
    """One byte a character: digits 0, capitals A, small letters a, what is not ASCII ?; and the plain bytes."""
    flat = text.encode("ascii", "replace")
    return flat.translate(_SHAPE), flat


def find_numbers(text: str, shape: bytes, flat: bytes) -> Iterator[Found]:
    """Everything of `NUMBERS`, then account numbers and addresses with letters in them. Spans may overlap with others
    only where a later, looser row would take characters of an earlier one; the caller keeps the first."""
    last = 0
    for zone in _ZONE.finditer(shape):
        start, end = max(last, zone.start() - _BEFORE), min(len(text), zone.end() + _AFTER)
        last = zone.end()
        n_digits = shape.count(b"0", zone.start(), zone.end())
        for kind, pattern, check in NUMBERS:
            if n_digits < 7 and kind != "ip":
                continue
            for match in pattern.finditer(text, start, end):
                if match.start() < zone.end() and check(match):
                    yield Found(kind, *match.span())
        if n_digits >= 8:
            for match in _CREDIT_CODE.finditer(text, max(0, start - 10), min(len(text), end + 4)):
                if checksums.is_credit_code(match.group()):
                    yield Found("credit_code", *match.span())
    for place in _places(shape, b"AA00"):
        found = _IBAN.match(text, place)
        if found:
            number = _longest_iban(found.group())
            if number:
                yield Found("iban", place, place + len(number))
    yield from _machines(text, flat)


def _longest_iban(candidate: str) -> str:
    """In groups of four an IBAN may run into the word after it; drop groups until the checksum holds."""
    while len(candidate) >= 15:
        if checksums.is_iban(candidate.replace(" ", "")):
            return candidate
        candidate = candidate.rpartition(" ")[0]
    return ""


def _machines(text: str, flat: bytes) -> Iterator[Found]:
    """Hardware addresses and IPv6; both need colons or hyphens between hexadecimal digits."""
    if flat.count(b":") + flat.count(b"-") < 2:
        return
    hexadecimal = flat.translate(_HEX)
    for place in _places(hexadecimal, b"hh:hh:hh:hh:hh:hh"):
        match = _MAC.match(text, place)
        if match and len(set(_digits(match.group()))) > 2:
            yield Found("mac", *match.span())
    for place in _places(hexadecimal, b"hhhh:"):
        match = _IPV6.match(text, place)
        if match and _is_ipv6(match.group()):
            yield Found("ip", *match.span())


def _is_ipv6(candidate: str) -> bool:
    import ipaddress

    try:
        ipaddress.IPv6Address(candidate)
    except ValueError:
        return False
    return True


def _places(data: bytes, literal: bytes) -> Iterator[int]:
    place = data.find(literal)
    while place >= 0:
        yield place
        place = data.find(literal, place + 1)


# 0/8, 10/8, 127/8, 169.254/16, 172.16/12, 192.168/16, multicast and above; IPv6: local and link-local. Then the ranges
# that are set aside for documents (RFC 5737, RFC 3849).
_NOBODY = re.compile(
    r"0\.|10\.|127\.|169\.254\.|172\.(?:1[6-9]|2\d|3[01])\.|192\.168\.|22[4-9]\.|23\d\.|24\d\.|25[0-5]\.|"
    r"f[cd]|fe80|192\.0\.2\.|198\.51\.100\.|203\.0\.113\.|2001:0?db8:",
    re.IGNORECASE,
)


def is_reserved(address: str) -> bool:
    """An address of a private network, or of one that exists in documents only: it names nobody."""
    return _NOBODY.match(address) is not None
