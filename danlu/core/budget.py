"""Budgets: how much a stage may spend, in the unit the user thinks in.

    "3m", "90s", "1h30m"   wall clock
    "60 steps"             optimiser steps
    "20M tokens"           training tokens
    "1e15 flops"           floating-point operations (6 x parameters x tokens, see model.flops_per_token)
    "40%"                  a share of the recipe's own budget, whatever its unit

A recipe has one budget and its stages take shares of it, so that `danlu run quickstart --budget 2m` turns one
dial and every stage follows. Only "steps", "tokens" and "flops" give the same bits on every run: a wall clock
does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

Kind = Literal["seconds", "steps", "tokens", "flops", "share"]

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "d": 86400.0}
_SCALE = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_CLOCK = re.compile(
    r"(\d+(?:\.\d+)?)\s*(?:(d)(?:ays?)?|(h)(?:ours?)?|(m)(?:in(?:utes?)?)?|(s)(?:ec(?:onds?)?)?)(?![a-z])\s*",
    re.IGNORECASE,
)
_COUNT = re.compile(r"(\d+(?:\.\d+)?(?:e\+?\d+)?)\s*([kmbgt]?)\s*(steps?|tokens?|flops?)", re.IGNORECASE)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True)
class Budget:
    """An amount of one kind: seconds, steps, tokens, flops, or a share in [0, 1]."""

    kind: Kind
    amount: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget as a person writes it.

        Raises ValueError with the forms that are understood.

        >>> Budget.parse("1h30m")
        Budget(kind='seconds', amount=5400.0)
        >>> Budget.parse("20M tokens")
        Budget(kind='tokens', amount=20000000.0)
        """
        text = str(text).strip()
        found = _parse_count(text) or _parse_clock(text) or _parse_share(text)
        if found is None or found.amount <= 0:
            raise ValueError(f'"{text}" is no budget: write for example "3m", "60 steps", "20M tokens", "1e15 flops"')
        return found

    def of(self, whole: Budget) -> Budget:
        """This budget as part of `whole`: a share becomes its amount, everything else stays as it is."""
        if self.kind != "share":
            return self
        amount = self.amount * whole.amount
        return Budget(whole.kind, max(1.0, round(amount)) if whole.kind in ("steps", "tokens") else amount)

    def __str__(self) -> str:
        if self.kind == "share":
            return f"{self.amount * 100:g}%"
        if self.kind == "seconds":
            return f"{self.amount:g}s"
        return f"{self.amount:g} {self.kind}" if self.kind == "flops" else f"{round(self.amount)} {self.kind}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Let config classes have fields of type Budget that are written as text."""

        def read(value: Any) -> Budget:
            return value if isinstance(value, Budget) else cls.parse(value)

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


def _parse_count(text: str) -> Budget | None:
    match = _COUNT.fullmatch(text)
    if not match:
        return None
    number, scale, unit = match.groups()
    kind: Kind = {"s": "steps", "t": "tokens", "f": "flops"}[unit[0].lower()]  # type: ignore[assignment]
    return Budget(kind, float(number) * _SCALE[scale.lower()])


def _parse_clock(text: str) -> Budget | None:
    parts = list(_CLOCK.finditer(text))
    if not parts or "".join(part.group(0) for part in parts) != text:
        return None
    seconds = 0.0
    for part in parts:
        unit = next(letter for letter in part.groups()[1:] if letter)
        seconds += float(part.group(1)) * _SECONDS[unit.lower()]
    return Budget("seconds", seconds)


def _parse_share(text: str) -> Budget | None:
    match = _SHARE.fullmatch(text)
    return Budget("share", float(match.group(1)) / 100) if match else None
