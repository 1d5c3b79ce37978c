from __future__ import annotations

import random

import pytest

from bench import planted
from danlu.data.safety import checksums


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        # The examples of the standards.
        (checksums.is_id_card, "11010519491231002X", "11010519491231003X"),
        (checksums.is_id_card, "440524188001010014", ""),  # the year 1880: nobody's any more
        (checksums.is_credit_code, "91350100M000100Y43", "91350100M000100Y34"),
        (checksums.passes_luhn, "79927398713", "79927398710"),
        (checksums.is_payment_card, "4111111111111111", "4111111111111112"),
        (checksums.is_payment_card, "378282246310005", "1234567812345670"),  # Luhn holds, no scheme has it
        (checksums.is_iban, "GB82WEST12345698765432", "GB82WEST12345698765433"),
        (checksums.is_iban, "DE89370400440532013000", "DE8937040044053201300"),
        (checksums.is_ssn, "856452189", "666452189"),
        (checksums.is_old_id_card, "110105491231002", "110105491331002"),
    ],
)
def test_worked_examples(check, right: str, wrong: str) -> None:  # type: ignore[no-untyped-def]
    if right == "440524188001010014":
        assert not check(right)
        return
    assert check(right) and not check(wrong)


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (planted.id_card, checksums.is_id_card),
        (planted.credit_code, checksums.is_credit_code),
        (lambda rng: planted.bank_card(rng).replace(" ", "").replace("-", ""), checksums.is_payment_card),
        (lambda rng: planted.iban(rng).replace(" ", ""), checksums.is_iban),
    ],
)
def test_any_wrong_digit_is_noticed(make, check) -> None:  # type: ignore[no-untyped-def]
    rng = random.Random(5)
    for _ in range(200):
        number = make(rng)
        assert check(number)
        i = max(k for k, c in enumerate(number) if c.isdigit() and k != len(number) - 1)
        assert not check(number[:i] + str((int(number[i]) + 1) % 10) + number[i + 1 :])


def test_random_numbers_hardly_ever_pass() -> None:
    rng = random.Random(6)
    numbers = [planted.digits(rng, 18) for _ in range(6_000)]
    assert sum(map(checksums.is_id_card, numbers)) <= 2
    assert sum(checksums.is_payment_card(number[:16]) for number in numbers) < 300
