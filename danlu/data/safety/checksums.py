"""Checksums: the arithmetic that tells an identity number from any other number of its length.

| function          | standard                        | rule                                                  |
|-------------------|---------------------------------|-------------------------------------------------------|
| `is_id_card`      | GB 11643, ISO 7064 MOD 11-2     | sum of digit_i * 2^(17-i) = 1 (mod 11), X is ten      |
| `is_credit_code`  | GB 32100                        | sum of value_i * 3^(i-1), i < 18, + check = 0 (mod 31) |
| `passes_luhn`     | ISO/IEC 7812-1                  | every second digit from the right doubled, sum = 0 (mod 10) |
| `is_payment_card` | the schemes' published ranges   | Luhn, and the first digits fit the length             |
| `is_iban`         | ISO 13616                       | country length, rearranged number = 1 (mod 97)        |
| `is_ssn`          | Social Security Administration  | area, group and serial that can have been issued      |

A checksum is what makes these safe to look for without a word of context: of random 18-digit numbers one in some
hundred thousand is a resident's number, of random 16-digit numbers one in a hundred a card. Each function takes the
bare characters (no spaces, no hyphens).

>>> is_id_card("11010519491231002X"), is_id_card("110105194912310021")
(True, False)
>>> passes_luhn("4111111111111111"), is_iban("GB82WEST12345698765432")
(True, True)
"""

from __future__ import annotations

import re
from datetime import date

# Codes of provinces (GB/T 2260), Taiwan, Hong Kong, Macao; 83 is the residence permit of people from Taiwan.
PROVINCES = frozenset(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83".split()
)
_ID_WEIGHTS = tuple(pow(2, 17 - i, 11) for i in range(18))
_CREDIT_ALPHABET = {character: value for value, character in enumerate("0123456789ABCDEFGHJKLMNPQRTUWXY")}
_CREDIT_WEIGHTS = (*(pow(3, i, 31) for i in range(17)), 1)
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_LATEST_YEAR = 2035  # no clock: the same text must give the same answer next year

# First digits and the lengths that go with them.
_CARDS: tuple[tuple[re.Pattern[str], frozenset[int]], ...] = tuple(
    (re.compile(prefix), frozenset(lengths))
    for prefix, lengths in (
        ("62|81", (16, 17, 18, 19)),  # UnionPay
        ("4", (13, 16, 19)),  # Visa
        ("5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),  # Mastercard
        ("3[47]", (15,)),  # American Express
        ("6011|64[4-9]|65", (16, 19)),  # Discover
        ("35(?:2[89]|[3-8])", (16, 19)),  # JCB
        ("30[0-5]|36|38|39", (14, 16)),  # Diners Club
        ("9558[08]|9559[5-9]|436742|601382", (19,)),  # Chinese debit cards from before UnionPay's range
    )
)

# Length of an IBAN by country (the registry of ISO 13616; the large users).
_IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24FI18FO18FR27GB22GE22GI23"
        "GL18GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MR27MT31MU30"
        "NL18NO15PK24PL28PS29PT25QA29RO24RS22SA24SC31SE24SI19SK24SM27ST25SV28TL23TN24TR26UA29VA22VG24XK20",
    )
}
# Numbers that stood in advertisements and are nobody's.
_PUBLIC_SSN = frozenset({"078051120", "219099999", "123456789"})


def is_date(year: str, month: str, day: str) -> bool:
    """A day of the calendar between 1900 and 2035."""
    try:
        return 1900 <= date(int(year), int(month), int(day)).year <= _LATEST_YEAR
    except ValueError:
        return False


def is_id_card(number: str) -> bool:
    """18 characters: region, date of birth, serial, check character."""
    if number[:2] not in PROVINCES or not is_date(number[6:10], number[10:12], number[12:14]):
        return False
    values = [10 if character in "Xx" else int(character) for character in number]
    return sum(value * weight for value, weight in zip(values, _ID_WEIGHTS, strict=True)) % 11 == 1


def is_old_id_card(number: str) -> bool:
    """15 digits as issued until 1999: region, date of birth with two digits for the year, serial; no check digit."""
    return number[:2] in PROVINCES and is_date("19" + number[6:8], number[8:10], number[10:12])


def is_credit_code(code: str) -> bool:
    """18 characters of an organisation's unified social credit code; registering body, region, organisation, check."""
    if len(code) != 18 or code[2:4] not in PROVINCES | {"10"} or any(c not in _CREDIT_ALPHABET for c in code):
        return False
    total = sum(_CREDIT_ALPHABET[c] * weight for c, weight in zip(code, _CREDIT_WEIGHTS, strict=True))
    return total % 31 == 0


def passes_luhn(number: str) -> bool:
    digits = [int(digit) for digit in number]
    return (sum(digits[-1::-2]) + sum(_DOUBLED[digit] for digit in digits[-2::-2])) % 10 == 0


def is_payment_card(number: str) -> bool:
    """A bank or credit card: known first digits for this length, Luhn, and not one digit all over."""
    known = any(len(number) in lengths and prefix.match(number) for prefix, lengths in _CARDS)
    return known and len(set(number)) > 1 and passes_luhn(number)


def is_iban(number: str) -> bool:
    if _IBAN_LENGTHS.get(number[:2]) != len(number):
        return False
    return int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97 == 1


def is_ssn(number: str) -> bool:
    """Nine digits that can be a social security number of the United States."""
    area, group, serial = number[:3], number[3:5], number[5:]
    issued = area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"
    return issued and number not in _PUBLIC_SSN
